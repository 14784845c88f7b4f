"""Freezes a VM that is in use, and lets it go on: memory, devices and disk of one moment.

    layer, overlay ──▶ pause ──▶ devices, own pages ──▶ the overlay is laid ──▶ resume ──▶ links
    made and opened    └─────────────── it stands still ────────────────┘

Where disks cannot be overlays, the disk is copied while the VM stands still.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from warmboot.host.vm import disk_layers
from warmboot.hypervisors.base import FrozenMachine, Vm
from warmboot.model.errors import HypervisorError, VmUnresponsive
from warmboot.model.runtime_snapshot import DIFFERENCE_FILE, DISK_FILE, STATE_FILE
from warmboot.model.vm import Disk, DiskFormat, VmSpec, VmStatus
from warmboot.system import disks
from warmboot.system.concurrency import finish
from warmboot.system.on_failure import on_failure

MOST_LAYERS = 100
"""Each freeze adds one to the disk, and forks have those of their source: QEMU opens so many in
some tenths of a second, 400 in ten seconds, and it dies of a thousand."""

_PARTS = (DIFFERENCE_FILE, STATE_FILE, DISK_FILE)


@dataclass(frozen=True, slots=True)
class FrozenVm:
    """A VM as it was: its machine, and its writable disk, which never changes; all in one folder.
    ``layers`` are the disk's files there, if it has some. ``standstill_s``: how long it stood
    still for it."""

    machine: FrozenMachine
    disk: Disk
    standstill_s: float
    layers: tuple[str, ...] = ()


async def freeze_vm(
    vm: Vm, spec: VmSpec, folder: Path, gid: int, *, stays: bool = False
) -> FrozenVm:
    """Freeze a running or paused VM into ``folder``, which its VMM may write to, and have it be as
    it was: its disk is at the same path.

    ``gid`` may read the disk. ``stays``: it stands still then, as it is to be ended. If it fails
    the VM is as before, and no file is left: that is so when it was cancelled, too.
    ``HypervisorError`` for a VM that has stalled; ``DiskFull``.
    """
    with on_failure(lambda: _clear(folder)):
        # Not cut short: it would not be known what the VM writes to.
        return await finish(asyncio.ensure_future(_freeze(vm, spec, folder, gid, stays)))


def _clear(folder: Path) -> None:
    for name in (*_PARTS, *(layer.name for layer in disk_layers.layers(folder))):
        (folder / name).unlink(missing_ok=True)


def has_most_layers(spec: VmSpec) -> bool:
    """Whether it has been frozen as often as it may be; a start on its disk has them merged."""
    return len(disk_layers.layers(spec.run_dir)) >= MOST_LAYERS


def settle(spec: VmSpec) -> None:
    """Have a VM's disk be where it is looked for, whether the VM is still there or not, after a
    freeze that was broken off, as the manager was killed. Idempotent."""
    disk_layers.settle(_writable(spec))


async def go_on(vm: Vm, spec: VmSpec) -> None:
    """Have a VM run on whose freeze was broken off. Idempotent."""
    settle(spec)
    if await vm.status() is VmStatus.PAUSED:
        await vm.resume()


def _writable(spec: VmSpec) -> Disk:
    return next(disk for disk in spec.disks if not disk.read_only)


async def _freeze(vm: Vm, spec: VmSpec, folder: Path, gid: int, stays: bool) -> FrozenVm:
    status = await vm.status()
    if status not in (VmStatus.RUNNING, VmStatus.PAUSED):
        raise HypervisorError(f"{spec.id} cannot be frozen: it is {status}")
    disk = _writable(spec)
    layered = disk.format is DiskFormat.QCOW2
    overlay = await disk_layers.add_layer(disk) if layered else None
    may_be_written_to = False

    def give_back() -> None:
        if overlay is not None:
            (disk_layers.settle if may_be_written_to else disk_layers.remove_layer)(disk)

    with on_failure(give_back):
        async with vm.about_to_freeze(overlay), on_failure(lambda: _go_on(vm, status)):
            began = time.monotonic()
            await vm.pause()
            machine = await vm.freeze(folder)
            if overlay is None:
                await disks.copy(disk.path, folder / DISK_FILE)
            else:
                try:
                    await vm.lay_overlay(overlay)
                except VmUnresponsive:  # it may do so yet
                    may_be_written_to = True
                    raise
                may_be_written_to = True
                disk_layers.settle(disk)
            if not stays:
                await _go_on(vm, status)
            standstill_s = time.monotonic() - began
    if overlay is None:
        return FrozenVm(machine, Disk(folder / DISK_FILE), standstill_s)
    top = disk_layers.link_layers(disk.path.parent, folder, gid)
    frozen = Disk(top, format=DiskFormat.QCOW2, base=disk.base)
    names = tuple(layer.name for layer in disk_layers.layers(folder))
    return FrozenVm(machine, frozen, standstill_s, names)


async def _go_on(vm: Vm, status: VmStatus) -> None:
    if status is VmStatus.RUNNING:
        await vm.resume()

"""The confinement of a VMM: the limits of its control group and files, and its namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmboot.hypervisors.cgroups import Cgroups, Limits
from warmboot.model.errors import HypervisorError
from warmboot.model.vm import VmHandle, VmSpec

EXTRA_CPUS = 1.0
"""For what is not a guest's processor: the disk, the network, the monitor, the page server."""

PIDS = 160
"""A VMM's own threads, its pool for disk requests (64 at most), and its helpers, with room."""

_MIB = 1 << 20
_LEAST_FILE_BYTES = 256 * _MIB
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWPID = 0x00020000, 0x08000000, 0x20000000
_CLONE_NEWNET = 0x40000000
_MS_REC, _MS_SLAVE = 0x4000, 1 << 19

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Confinement:
    """``cgroups`` is ``None`` where there are none to be had. ``overhead_mib`` is what a VM may use
    beyond its guest's memory, ``console_bytes`` how much of what its guest prints is kept."""

    cgroups: Cgroups | None = None
    overhead_mib: int = 640
    console_bytes: int = 16 * _MIB

    def create(self, spec: VmSpec) -> None:
        """The VM's control group. Blocks."""
        if self.cgroups is not None:
            try:
                self.cgroups.create(spec.id, limits_of(spec, self.overhead_mib))
            except OSError as error:
                raise HypervisorError(
                    f"the control group of VM {spec.id} could not be made",
                    details=str(error),
                    resolution="see `warmboot doctor`",
                ) from error

    async def join(self, spec: VmSpec, pids: Sequence[int]) -> None:
        """Put processes under the VM's limits."""
        if self.cgroups is not None:
            await asyncio.to_thread(self._join, self.cgroups, spec, pids)

    def join_beside(self, vm_id: str, pid: int) -> None:
        """Put a process that works for a running VM under its limits, if it has any. Blocks."""
        if self.cgroups is not None:
            try:
                self.cgroups.join(vm_id, pid)
            except FileNotFoundError:  # it has ended, or was started without a group
                pass
            except OSError as error:
                raise HypervisorError(
                    f"a process of VM {vm_id} could not be put under its limits",
                    details=str(error),
                    resolution="see `warmboot doctor`",
                ) from error

    async def start(self, known: Collection[str]) -> None:
        """Make room for this manager's groups; those of VMs that are not known are removed."""
        if self.cgroups is not None:
            await asyncio.to_thread(self.cgroups.prepare)
            for name in await asyncio.to_thread(self.cgroups.names):
                if name not in known:
                    with contextlib.suppress(HypervisorError):  # it hangs: tried at the next start
                        await self.release(name)

    async def stop(self) -> None:
        """Remove the manager's own control groups, unless a VM is in them."""
        if self.cgroups is not None:
            await asyncio.to_thread(self.cgroups.tear_down)

    async def come_first(self, handle: VmHandle) -> None:
        """A VM that was in the background is wanted now."""
        if self.cgroups is not None:
            with contextlib.suppress(OSError):  # it has ended, or was started without a group
                await asyncio.to_thread(self.cgroups.come_first, handle.vm_id, handle.pid)

    async def release(self, vm_id: str) -> None:
        """Remove a VM's control group, with whatever is left in it. Idempotent."""
        if self.cgroups is not None:
            try:
                await asyncio.to_thread(self.cgroups.remove, vm_id)
            except OSError as error:  # TimeoutError is one
                raise HypervisorError(
                    f"the control group of VM {vm_id} could not be removed",
                    details=str(error),
                    resolution="look for a process that hangs: `cat /proc/PID/stack`",
                ) from error

    def _join(self, cgroups: Cgroups, spec: VmSpec, pids: Sequence[int]) -> None:
        try:
            for pid in pids:
                cgroups.join(spec.id, pid, background=spec.background)
        except OSError as error:
            raise HypervisorError(
                f"VM {spec.id} could not be put under its limits",
                details=str(error),
                resolution="see `warmboot doctor`",
            ) from error


def limits_of(spec: VmSpec, overhead_mib: int) -> Limits:
    """The limits of the VMM and its helpers together.

    A guest's memory counts once, whether it is the VM's own or its part of a snapshot's file;
    page cache beyond that is given back by the kernel before anything is killed.
    """
    ram_mib = spec.shape.memory_mib
    page_tables_mib = ram_mib // 64
    return Limits(
        memory_bytes=(ram_mib + page_tables_mib + overhead_mib) * _MIB,
        cpus=spec.shape.vcpus + EXTRA_CPUS,
        pids=PIDS + spec.shape.vcpus,
        background=spec.background,
    )


def file_limit_bytes(spec: VmSpec) -> int:
    """No file of the VMM gets longer: its disks when they are full, with the tables of an overlay,
    and its memory when it is saved."""
    sizes = [_size(disk.base or disk.path) for disk in spec.disks if not disk.read_only]
    largest = max([spec.shape.memory_mib * _MIB, *sizes])
    return max(_LEAST_FILE_BYTES, largest + largest // 32 + 64 * _MIB)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # told by the VMM
        return 0


def isolate(namespace: Path | None, *, pids: bool) -> None:
    """Give the calling thread, and what it starts, namespaces of its own; the thread is to end.

    Root's only. Mounts that the host makes or undoes later are still seen: nothing keeps a file
    system, or another VM's network, from going.
    """
    if namespace is not None:
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(fd, _CLONE_NEWNET), f"enter {namespace}")
        finally:
            os.close(fd)
    flags = _CLONE_NEWNS | _CLONE_NEWIPC | (_CLONE_NEWPID if pids else 0)
    _check(_libc.unshare(flags), "make namespaces")
    _check(
        _libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None),
        "make mounts its own",
    )


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")

"""The writable disk of a VM that has been frozen: layers, and the overlay that is written to.

    disk.qcow2 ──▶ disk-2.qcow2 ──▶ disk-1.qcow2 ──▶ the disk of its image or snapshot
    written to     never again; hard links, which the snapshots of those moments have, too

An overlay names the layer that it lies on without a folder: each folder has links to all that it
needs, so that a VM and what was frozen of it do not need each other, and neither do its forks.

Where a disk with many is booted once more, they are merged into what is written to (``merge``).

    disk.qcow2.new    an overlay that is about to become, or has just become, what is written to

A manager that is killed meanwhile leaves that: it has all that ``disk.qcow2`` has, whether the VM
came to write to it or not. ``settle`` puts it in its place.
"""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

from warmboot.model.errors import HostError
from warmboot.model.vm import Disk, DiskFormat
from warmboot.system import disks
from warmboot.system.file_stamps import UNFINISHED
from warmboot.system.on_failure import on_failure

MERGED_FROM = 16

_QCOW2 = struct.Struct(">4s20xQ")
_MAGIC = b"QFI\xfb"


def layers(folder: Path) -> list[Path]:
    """The layers in a folder, the topmost last."""
    return sorted(folder.glob("disk-*.qcow2"), key=lambda path: int(path.stem.partition("-")[2]))


async def add_layer(disk: Disk) -> Disk:
    """Make ``disk``, which a VM may be writing to, a layer by another name, too, and a new overlay
    on that; which is not in the place of ``disk`` yet."""
    number = len(layers(disk.path.parent)) + 1
    layer = disk.path.with_name(f"disk-{number}.qcow2")
    new = _unfinished(disk)
    new.unlink(missing_ok=True)
    os.link(disk.path, layer)
    with on_failure(lambda: remove_layer(disk)):
        await disks.overlay_on_overlay(Path(layer.name), new, virtual_bytes(layer))
        owner = layer.stat()
        os.chown(new, owner.st_uid, owner.st_gid)
    return replace(disk, path=new)


def remove_layer(disk: Disk) -> None:
    """Take ``add_layer`` back: the VM does not write to the new overlay."""
    _unfinished(disk).unlink(missing_ok=True)
    found = layers(disk.path.parent)
    if found and found[-1].samefile(disk.path):
        found[-1].unlink()


def settle(disk: Disk) -> None:
    """The new overlay, if there is one, takes the place of ``disk``. Idempotent."""
    new = _unfinished(disk)
    if new.exists():
        new.replace(disk.path)


def link_layers(source: Path, target: Path, gid: int) -> Path:
    """Give the folder ``target`` all layers of ``source``, read-only; the topmost."""
    found = layers(source)
    for layer in found:
        if os.geteuid() == 0:
            os.chown(layer, 0, gid)
        layer.chmod(0o440)
        os.link(layer, target / layer.name)
    return target / found[-1].name


async def fork_disk(frozen: Disk, folder: Path) -> Disk:
    """A writable disk in ``folder`` as ``frozen``, the disk of a moment, is: an overlay of its own
    on links to the layers, or a copy."""
    if frozen.format is DiskFormat.RAW:
        return await disks.copy(frozen.path, folder / frozen.path.name)
    for layer in layers(frozen.path.parent):
        os.link(layer, folder / layer.name)
    path = folder / "disk.qcow2"
    await disks.overlay_on_overlay(Path(frozen.path.name), path, virtual_bytes(frozen.path))
    return replace(frozen, path=path)


async def merge(disk: Disk) -> None:
    """Have ``disk``, which no VM has open, lie on its base alone, if it lies on many layers.

    Those who have links to them keep them. ``DiskFull``; may be cut off, and begun again.
    """
    found = layers(disk.path.parent)
    if len(found) < MERGED_FROM or disk.base is None:
        return
    await disks.rebase(disk.path, disk.base)
    for layer in found:
        layer.unlink()


def virtual_bytes(path: Path) -> int:
    """How large a guest sees the disk."""
    with path.open("rb") as file:
        header = file.read(_QCOW2.size)
    if len(header) < _QCOW2.size or not header.startswith(_MAGIC):
        raise HostError(f"{path} is no qcow2 overlay")
    size: int = _QCOW2.unpack(header)[1]
    return size


def _unfinished(disk: Disk) -> Path:
    return disk.path.with_name(f"{disk.path.name}{UNFINISHED}")

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

import logging
import os
import shutil
import stat
import struct
from collections.abc import Sequence
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from warmboot.model.errors import HostError
from warmboot.model.vm import Disk, DiskFormat
from warmboot.system import disks
from warmboot.system.file_stamps import UNFINISHED
from warmboot.system.on_failure import on_failure

log = logging.getLogger(__name__)

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
    os.link(disk.path, layer, follow_symlinks=False)
    with on_failure(lambda: remove_layer(disk)):
        size_bytes = virtual_bytes(layer)
        status = layer.lstat()
        owner = status.st_uid, status.st_gid
        await disks.overlay_on_overlay(layer.name, new, size_bytes, owner, durable=True)
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
    if os.path.lexists(new):
        new.replace(disk.path)


def link_layers(source: Path, target: Path, gid: int) -> Path:
    """Give the folder ``target`` all layers of ``source``, read-only; the topmost."""
    found = layers(source)
    for layer in found:
        _hand_over(layer, gid)
        os.link(layer, target / layer.name, follow_symlinks=False)
    return target / found[-1].name


def _hand_over(layer: Path, gid: int) -> None:
    """Have it read by the group, and written by nobody."""
    with _opened(layer) as file:
        if os.geteuid() == 0:
            os.fchown(file.fileno(), 0, gid)
        os.fchmod(file.fileno(), 0o440)


def _opened(layer: Path) -> BufferedReader:
    """A VMM may put anything in its folder: links lead nowhere."""
    descriptor = os.open(layer, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise HostError(f"{layer} is no file")
    return file


async def fork_disk(frozen: Disk, folder: Path) -> Disk:
    """A writable disk in ``folder`` as ``frozen``, the disk of a moment, is: an overlay of its own
    on links to the layers, or a copy."""
    if frozen.format is DiskFormat.RAW:
        return await disks.copy(frozen.path, folder / frozen.path.name)
    for layer in layers(frozen.path.parent):
        os.link(layer, folder / layer.name)
    path = folder / "disk.qcow2"
    await disks.overlay_on_overlay(frozen.path.name, path, virtual_bytes(frozen.path))
    return replace(frozen, path=path)


async def merge(disk: Disk, rights: Sequence[str] = ()) -> None:
    """Have ``disk``, which no VM has open, lie on its base alone, if it lies on many layers.

    ``rights`` as for ``disks.rebase``. Those who have links to the layers keep them. It may be cut
    off, and begun again; where it cannot be done, the VM runs on the layers as well.
    """
    found = layers(disk.path.parent)
    if len(found) < MERGED_FROM or disk.base is None:
        return
    copied_bytes = sum(map(disks.allocated_bytes, found))
    if shutil.disk_usage(disk.path).free < 2 * copied_bytes:
        log.warning("there is too little room to merge the layers of %s", disk.path)
        return
    try:
        await disks.rebase(disk.path, disk.base, rights)
    except HostError as error:
        log.warning("the layers of %s were not merged: %s", disk.path, error)
        return
    for layer in reversed(found):  # the numbers of those that a kill leaves have no gap
        layer.unlink()


def virtual_bytes(path: Path) -> int:
    """How large a guest sees the disk."""
    with _opened(path) as file:
        header = file.read(_QCOW2.size)
    if len(header) < _QCOW2.size or not header.startswith(_MAGIC):
        raise HostError(f"{path} is no qcow2 overlay")
    size: int = _QCOW2.unpack(header)[1]
    return size


def _unfinished(disk: Disk) -> Path:
    return disk.path.with_name(f"{disk.path.name}{UNFINISHED}")

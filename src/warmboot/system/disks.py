"""Copy-on-write disks for VMs.

Where the hypervisor can (``qcow2_overlays``) a VM's disk is a small overlay on an immutable base;
elsewhere it is a copy: a reflink where the file system can, otherwise only the allocated parts.
A VM's disk is written by that VM alone and is never put under another's memory.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

from warmboot.model.errors import DiskFull, HostError, WarmbootError
from warmboot.model.vm import Disk, DiskFormat
from warmboot.system.file_stamps import Stamp, stamp
from warmboot.system.hashing import copy_sparse
from warmboot.system.programs import run_program

_QEMU_IMG_TIMEOUT_S = 30.0
_REBASE_TIMEOUT_S = 1800.0
_MOST_EMPTY = 16
"""Of some 200 KB each."""


async def overlay(base: Path, target: Path) -> Disk:
    """A new qcow2 overlay at ``target``; ``base`` must never change while it exists."""
    return await _make_overlay(base, target, "-F", "raw", target)


async def overlay_on_overlay(base: Path, target: Path, size_bytes: int) -> Disk:
    """The same on an overlay, which is not opened for it: a VM may still write to that one."""
    return await _make_overlay(base, target, "-F", "qcow2", "-u", target, str(size_bytes))


async def _make_overlay(base: Path, target: Path, *how: str | Path) -> Disk:
    made = await run_program(
        *("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, *how),
        check=False,
        timeout_s=_QEMU_IMG_TIMEOUT_S,
    )
    if not made.ok:
        if "No space left" in made.output:
            raise disk_full(target)
        raise HostError(f"no overlay disk could be made at {target}", details=made.output.strip())
    return Disk(target, format=DiskFormat.QCOW2, base=base)


async def rebase(overlay: Path, base: Path, rights: Sequence[str] = ()) -> None:
    """Have an overlay that nobody has open lie on ``base``, a raw disk on which it lies through
    others. What those have is copied first. ``DiskFull``.

    ``rights`` is what drops to the user whose VMM has written it: its head may name any file.
    """
    command: list[str | Path] = [*rights, "qemu-img", "rebase", "-q", "-f", "qcow2"]
    done = await run_program(
        *(*command, "-F", "raw", "-b", base, overlay),
        check=False,
        timeout_s=_REBASE_TIMEOUT_S,
        new_session=True,  # if we are killed, the next manager ends it as it would a VMM
    )
    if not done.ok:
        if "No space left" in done.output:
            raise disk_full(overlay)
        raise HostError(f"the layers of {overlay} cannot be merged", details=done.output.strip())


class Overlays:
    """Makes overlays: of the same base all are the same until they are written to, so one is made
    by qemu-img, and the others are its copies."""

    def __init__(self) -> None:
        self._empty: dict[Path, tuple[Stamp, bytes]] = {}

    async def make(self, base: Path, target: Path) -> Disk:
        """As ``overlay``."""
        made_for, content = self._empty.get(base, (None, b""))
        now = stamp(base)
        if made_for == now:
            await asyncio.to_thread(_write, target, content)
            return Disk(target, format=DiskFormat.QCOW2, base=base)
        disk = await overlay(base, target)
        self._empty = {**self._empty, base: (now, target.read_bytes())}
        while len(self._empty) > _MOST_EMPTY:
            del self._empty[next(iter(self._empty))]
        return disk


def _write(target: Path, content: bytes) -> None:
    try:
        target.write_bytes(content)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise os_error(error) from error


async def copy(source: Path, target: Path) -> Disk:
    """A copy of a raw disk, sparse where the source is."""
    await asyncio.to_thread(copy_file, source, target)
    return Disk(target)


def copy_file(source: Path, target: Path) -> None:
    """Reflink, or copy what is allocated. ``target`` must not exist; it is removed on failure."""
    try:
        copy_sparse(source, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(target) from error
        raise HostError(f"{source} could not be copied to {target}", details=str(error)) from error


def allocated_bytes(path: Path) -> int:
    """The bytes that a sparse file occupies on disk."""
    return path.stat().st_blocks * 512


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def os_error(error: OSError) -> WarmbootError:
    """What an error of the operating system means, for whoever asked."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(Path(str(error.filename or "a file")))
    return HostError("the machine refused an operation", details=str(error) or repr(error))


def disk_full(target: Path) -> DiskFull:
    return DiskFull(
        f"the disk is full: {target} could not be written",
        resolution="free some space below MANAGER_STORAGE_ROOT (`warmboot rm`, "
        "`warmboot snapshot rm`), then try again",
    )

"""Copy-on-write disks for VMs.

Where the hypervisor can (``qcow2_overlays``) a VM's disk is a small overlay on an immutable base;
elsewhere it is a copy: a reflink where the file system can, otherwise only the allocated parts.
A VM's disk is written by that VM alone and is never put under another's memory.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from warmboot.model.errors import DiskFull, HostError, WarmbootError
from warmboot.model.vm import Disk, DiskFormat
from warmboot.system.file_stamps import Stamp, stamp
from warmboot.system.hashing import copy_sparse
from warmboot.system.on_failure import on_failure
from warmboot.system.programs import run_program

Owner = tuple[int, int]
"""A user and a group."""

_QEMU_IMG_TIMEOUT_S = 30.0
_REBASE_TIMEOUT_S = 1800.0
_MOST_EMPTY = 16
"""Of some 200 KB each."""


async def overlay(base: Path, target: Path) -> Disk:
    """A new qcow2 overlay at ``target``; ``base`` must never change while it exists."""
    return await _make_overlay(base, target, "-F", "raw", target)


async def overlay_on_overlay(
    name: str, target: Path, size_bytes: int, owner: Owner | None = None, *, durable: bool = False
) -> None:
    """A new overlay at ``target``, on the overlay ``name`` in whatever folder that is: it is not
    opened for it, as a VM may still write to it. ``DiskFull``.

    Where the owner may write to the folder, no link that he puts there is followed. Whatever is at
    ``target`` is whole, also after the machine has crashed where it is ``durable``.
    """
    content = await _ON_OVERLAYS.content(name, size_bytes, target.parent.parent)
    await asyncio.to_thread(_write_new, target, content, owner, durable)


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


class _OnOverlays:
    """What is in new overlays on overlays of a name: each freeze, and each fork, needs one."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], bytes] = {}

    async def content(self, name: str, size_bytes: int, folder: Path) -> bytes:
        """``folder`` is where VMs have theirs: what a manager that is killed leaves there goes at
        the next start."""
        wanted = name, size_bytes
        if wanted not in self._known:
            try:
                with tempfile.TemporaryDirectory(prefix="overlay-", dir=folder) as made:
                    target = Path(made) / "disk.qcow2"
                    how = ("-F", "qcow2", "-u", target, str(size_bytes))
                    await _make_overlay(Path(name), target, *how)
                    self._known[wanted] = target.read_bytes()
            except OSError as error:
                raise os_error(error) from error
            while len(self._known) > _MOST_EMPTY:
                del self._known[next(iter(self._known))]
        return self._known[wanted]


_ON_OVERLAYS = _OnOverlays()


def _write(target: Path, content: bytes) -> None:
    try:
        target.write_bytes(content)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise os_error(error) from error


def _write_new(target: Path, content: bytes, owner: Owner | None, durable: bool) -> None:
    making = target.with_name(f"{target.name}.making")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        making.unlink(missing_ok=True)
        with on_failure(lambda: making.unlink(missing_ok=True)):
            with os.fdopen(os.open(making, flags, 0o644), "wb") as file:
                file.write(content)
                if owner is not None:
                    os.fchown(file.fileno(), *owner)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            making.rename(target)
    except OSError as error:
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

"""Extracts a layer's tar file into a container that never ran.

They are laid beside their place, in a folder that begins empty and that nobody else writes to, and
moved in at the end. A folder on the way to a file is opened without following links, and only
folders that the tar itself has made are there: so no name leads out of it, whatever its links say.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from warmboot.criu.archives.layer_tar import Entry, entries, parts_of
from warmboot.criu.archives.layers import IMPORTED
from warmboot.criu.archives.plain_tar import hostile
from warmboot.model.errors import Conflict, DiskFull

_MISPLACED = frozenset((errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack_layer(stream: IO[bytes], deleted: Iterable[str], folder: Path, max_entries: int) -> None:
    """Lay what is in the tar, and the marks of ``deleted`` files, into the empty ``folder``.

    ``InvalidRequest`` when it is hostile, ``DiskFull``; what there is by then stays in it.
    """
    times: list[tuple[tuple[str, ...], int]] = []
    root = os.open(folder, _FOLDER_FLAGS)
    try:
        for entry in entries(stream, max_entries):
            if entry.kind == "folder":
                times.append((entry.parts, entry.mtime_ns))
            _lay(root, entry)
        for path in deleted:
            _mark_deleted(root, parts_of(path.lstrip("/")))
        for parts, mtime_ns in reversed(times):  # a folder's time is its last change within
            with _opened(root, parts) as opened:
                os.utime(opened, ns=(mtime_ns, mtime_ns))
    except OSError as error:
        raise DiskFull(
            "the worker's files could not be unpacked",
            details=str(error),
            resolution="make room on the engine's disk, then import again",
        ) from error
    finally:
        os.close(root)


def refuse_foreign(upper: Path) -> None:
    """``Conflict`` when there are files that no import of ours has put there."""
    if is_imported(upper):
        return
    for place, _, files in os.walk(upper):
        if files:
            raise Conflict(
                "the worker already has other files",
                details=f"{Path(place, files[0]).relative_to(upper)} would be lost",
                resolution="import into a fresh worker of the same image",
            )


def move_in(unpacked: Path, upper: Path) -> None:
    """Make what was unpacked the container's changes; again, when an import was interrupted."""
    status = unpacked.stat()
    os.setxattr(upper, IMPORTED, b"1")
    empty(upper)
    for new in list(unpacked.iterdir()):
        new.rename(upper / new.name)
    os.chown(upper, status.st_uid, status.st_gid)
    for name in os.listxattr(unpacked):
        os.setxattr(upper, name, os.getxattr(unpacked, name))
    upper.chmod(stat.S_IMODE(status.st_mode))
    os.utime(upper, ns=(status.st_mtime_ns, status.st_mtime_ns))


def empty(upper: Path) -> None:
    """Remove all that is in it."""
    for old in list(upper.iterdir()):
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()


def is_imported(upper: Path) -> bool:
    with contextlib.suppress(OSError):
        return bool(os.getxattr(upper, IMPORTED))
    return False


def _lay(root: int, entry: Entry) -> None:
    if not entry.parts:
        if entry.kind != "folder":
            raise hostile("the root of the changed files is no folder")
        with _opened(root, ()) as opened:
            _finish(entry, opened)
        return
    name = entry.parts[-1]
    try:
        with _opened(root, entry.parts[:-1]) as parent:
            if entry.kind == "hard link":
                _link(root, entry, parent)
            elif entry.kind == "folder":
                os.mkdir(name, 0o700, dir_fd=parent)
                with _opened(parent, (name,)) as made:
                    _finish(entry, made)
            elif entry.kind == "file":
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file:  # noqa: PTH123
                    _write(file, entry)
                    file.flush()
                    _finish(entry, file.fileno())
            else:
                _make_node(entry, name, parent)
    except OSError as error:
        if error.errno not in _MISPLACED:
            raise
        raise hostile(f"{entry.name} is where it cannot be: {error.strerror}") from error


def _make_node(entry: Entry, name: str, parent: int) -> None:
    """A link, FIFO, socket or device: it has no descriptor that could be kept hold of."""
    if entry.kind == "link":
        if not entry.target or "\0" in entry.target:
            raise hostile(f"{entry.name} leads nowhere")
        os.symlink(entry.target, name, dir_fd=parent)
    else:
        kinds = {"FIFO": stat.S_IFIFO, "socket": stat.S_IFSOCK, "c": stat.S_IFCHR}
        os.mknod(name, kinds[entry.kind] | 0o600, os.makedev(*entry.device), dir_fd=parent)
    os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    path = f"/proc/self/fd/{parent}/{name}"
    for key, value in entry.attributes.items():
        os.setxattr(path, key, value, follow_symlinks=False)
    if entry.kind != "link":
        os.chmod(name, entry.mode, dir_fd=parent)
    times = (entry.mtime_ns, entry.mtime_ns)
    os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)


def _link(root: int, entry: Entry, parent: int) -> None:
    there = parts_of(entry.target)
    if not there:
        raise hostile(f"{entry.name} is a link to the root")
    with _opened(root, there[:-1]) as other:
        if stat.S_ISDIR(os.stat(there[-1], dir_fd=other, follow_symlinks=False).st_mode):
            raise hostile(f"{entry.name} is a hard link to a folder")
        os.link(
            there[-1],
            entry.parts[-1],
            src_dir_fd=other,
            dst_dir_fd=parent,
            follow_symlinks=False,
        )


def _write(file: IO[bytes], entry: Entry) -> None:
    places = iter(entry.extents)
    left = 0
    for chunk in entry.chunks:
        view = memoryview(chunk)
        while view:
            while not left:
                begin, left = next(places)
                file.seek(begin)
            part = view[:left]
            file.write(part)
            left -= len(part)
            view = view[len(part) :]
    file.truncate(entry.size)


def _finish(entry: Entry, descriptor: int) -> None:
    """Owner first: a change of it takes setuid and capabilities away."""
    os.fchown(descriptor, entry.uid, entry.gid)
    for key, value in entry.attributes.items():
        os.setxattr(descriptor, key, value)
    os.fchmod(descriptor, entry.mode)
    os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))


def _mark_deleted(root: int, parts: tuple[str, ...]) -> None:
    if not parts:
        raise hostile("the root is said to have been deleted")
    try:
        with _opened(root, parts[:-1]) as parent:
            os.mknod(parts[-1], stat.S_IFCHR, 0, dir_fd=parent)
    except OSError as error:
        if error.errno not in _MISPLACED:
            raise
        raise hostile(f"{'/'.join(parts)!r} cannot have been deleted") from error


@contextlib.contextmanager
def _opened(root: int, parts: tuple[str, ...]) -> Iterator[int]:
    """The folder there, on a way without links. ``NotADirectoryError`` when a link is on it."""
    descriptor = os.dup(root)
    try:
        for part in parts:
            try:
                below = os.open(part, _FOLDER_FLAGS, dir_fd=descriptor)
            finally:
                os.close(descriptor)
                descriptor = -1
            descriptor = below
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)

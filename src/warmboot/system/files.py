"""Writes a small file atomically."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

from warmboot.system.on_failure import on_failure


def followed(path: Path) -> Path:
    """The file behind ``path``: where its symbolic links lead, whether it is there or not."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def write_atomically(
    path: Path, content: str | bytes, *, mode: int = 0o644, durable: bool = True
) -> None:
    """Write ``content`` to a temporary file beside ``path``, sync it, rename it over ``path``.

    Without ``durable`` it is not synced: for what a power failure makes useless anyway.
    An existing file's owner, permissions and extended attributes are kept; ``mode`` is for a new
    one. A symbolic link stays one: the file that it leads to is written.
    """
    path = followed(path)
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with on_failure(lambda: Path(temporary).unlink(missing_ok=True)):
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if path.exists():
                status = path.stat()
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
                mode = status.st_mode & 0o7777
                _copy_attributes(path, file.fileno())
            os.fchmod(file.fileno(), mode)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    if durable:
        sync(path.parent)


def back_up(path: Path) -> Path:
    """Copy ``path`` to the first free of ``path.warmboot-backup``, ``…-2``, …; where to.

    Of a symbolic link the file that it leads to is copied, to a place beside that.
    """
    path = followed(path)
    target = _free_backup(path)
    shutil.copy2(path, target)
    status = path.stat()
    os.chown(target, status.st_uid, status.st_gid)
    return target


def set_aside(path: Path) -> Path:
    """Rename ``path``, a symbolic link or a file, as ``back_up`` would name its copy; where to."""
    target = _free_backup(path)
    path.rename(target)
    return target


def _free_backup(path: Path) -> Path:
    number = 1
    while True:
        name = f"{path.name}.warmboot-backup" + (f"-{number}" if number > 1 else "")
        target = path.with_name(name)
        if not os.path.lexists(target):
            return target
        number += 1


def _copy_attributes(source: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a file system that has none
        for name in os.listxattr(source):
            os.setxattr(descriptor, name, os.getxattr(source, name))


def sync(path: Path) -> None:
    """Have on the disk what a file contains, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink_all(*paths: Path) -> None:
    """Remove these files, whether they are there or not."""
    for path in paths:
        path.unlink(missing_ok=True)

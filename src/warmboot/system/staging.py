"""Folders that appear complete or not at all.

``staging(dest)`` gives a temporary folder beside ``dest``; ``place(folder, dest)`` syncs what was
put together there and renames it. A temporary folder is held by a lock as long as its process
lives, so what a killed process left is told from what another one is just filling.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from warmboot.model.errors import DiskFull, HostError
from warmboot.system.concurrency import finish
from warmboot.system.files import sync

_SUFFIX = ".partial"


@contextlib.asynccontextmanager
async def staging(dest: Path) -> AsyncIterator[Path]:
    """A temporary folder on ``dest``'s file system, removed at the end.

    Left-overs of killed processes with the same ``dest`` folder are removed first. Errors of the
    operating system inside become ``DiskFull`` or ``HostError``.
    """
    dest = dest.absolute()
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(_remove_left_overs, dest.parent)
        folder, lock = _create(dest)
        try:
            yield folder
        finally:
            try:
                await finish(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))
            finally:
                os.close(lock)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"there is not enough space for {dest}",
                details=str(error),
                resolution="free some space, or use a storage root on another disk",
            ) from error
        raise HostError(f"{dest} could not be written", details=str(error)) from error


def is_left_over(folder: Path) -> bool:
    """Whether ``folder`` is a temporary one whose process is no more."""
    if not folder.name.endswith(_SUFFIX):
        return False
    lock = _lock(folder)
    if lock is not None:
        os.close(lock)
    return lock is not None


async def place(folder: Path, dest: Path) -> None:
    """Sync ``folder`` to disk and make it ``dest``. An old ``dest`` is moved aside first."""
    await asyncio.to_thread(_place, folder, dest.absolute())


def _place(folder: Path, dest: Path) -> None:
    for path in folder.iterdir():
        if path.stat().st_nlink == 1:
            path.chmod(0o444)
        sync(path)
    folder.chmod(0o755)
    sync(folder)
    while True:
        with contextlib.suppress(FileNotFoundError):
            dest.rename(folder.parent / f"old-{uuid.uuid4().hex[:8]}")
        try:
            folder.rename(dest)
            break
        except OSError as error:  # somebody else was faster with the same: his goes aside, too
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    sync(dest.parent)


def _create(dest: Path) -> tuple[Path, int]:
    while True:
        folder = dest.parent / f".{dest.name}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
        folder.mkdir(mode=0o700)
        lock = _lock(folder)
        if lock is not None:
            return folder, lock


def _lock(folder: Path) -> int | None:
    """Hold the folder, unless somebody else does, or there is none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been removed between the two: then what is held is a folder without a name.
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _remove_left_overs(parent: Path) -> None:
    for folder in parent.glob(f".*{_SUFFIX}"):
        lock = _lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

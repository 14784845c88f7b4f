"""Scans the storage root for files and folders whose owners only the database knows.

    runtime-images/<digest>/              IMAGE_FOLDER      owner: the folder's name
    runtime-images/.….partial/            TEMPORARY         unless a running process holds it
    runtime-snapshots/<image>/            EMPTY_FOLDER      owner: the image; only if it is empty
                     /<image>/<id>/       SNAPSHOT_FOLDER   owner: the snapshot
                     /<image>/.building-<id>/   HALF_BUILT  owner: the snapshot
                     /<image>/.gone-…     TEMPORARY
                     /<image>/<id>/*.new  TEMPORARY
    vms/<id>/                             VM_FOLDER         owner: the VM; not if it has a process
    archives/<sha256>                     ARCHIVE           owner: the archive
    archives/.upload-…                    TEMPORARY
    checkpoint-archives/                  TEMPORARY         of imports that earlier versions made

A scan changes nothing. What it finds was there before the database is asked about owners, and a
row is written before its folder is made: so what has no owner then is really nobody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from warmboot.host.snapshots.snapshot_files import BUILDING, GONE, UNFINISHED
from warmboot.host.vm.leftovers import users_of
from warmboot.model.garbage import DiskEntry, Kind
from warmboot.system.staging import is_left_over
from warmboot.system.usage import statuses_below

EARLIER_IMPORTS = "checkpoint-archives"


class DiskScan:
    """Scans the storage root ``root``, and removes entries."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def run(self) -> list[DiskEntry]:
        """Everything that has an owner, or should have."""
        return await asyncio.to_thread(lambda: list(self._entries()))

    async def remove(self, one: DiskEntry) -> bool:
        """Remove it; whether it is gone.

        An archive or temporary file that was written to or used since it was looked at stays.
        """
        if one.kind in (Kind.ARCHIVE, Kind.TEMPORARY) and _changed_at(one.path) != one.changed_at:
            return not one.path.exists()
        if one.kind is Kind.ARCHIVE:
            _remove(one)  # with no pause since: a use changes the time first
        else:
            await asyncio.to_thread(_remove, one)
        return not one.path.exists()

    def _entries(self) -> Iterator[DiskEntry]:
        yield from self._images()
        for folder in _children(self.root / "runtime-snapshots"):
            yield from self._snapshots_of(folder)
        for folder in _children(self.root / "vms"):
            if not users_of(folder):  # a VM of the warm pool has no record, but a process
                yield from _entry(Kind.VM_FOLDER, folder, folder.name)
        for path in _children(self.root / "archives"):
            kind = Kind.TEMPORARY if path.name.startswith(".upload-") else Kind.ARCHIVE
            yield from _entry(kind, path, path.name)
        yield from _entry(Kind.TEMPORARY, self.root / EARLIER_IMPORTS, EARLIER_IMPORTS)

    def _images(self) -> Iterator[DiskEntry]:
        for folder in _children(self.root / "runtime-images"):
            if not folder.name.startswith("."):
                yield from _entry(Kind.IMAGE_FOLDER, folder, folder.name)
            elif is_left_over(folder):
                yield from _entry(Kind.TEMPORARY, folder, folder.name)

    def _snapshots_of(self, folder: Path) -> Iterator[DiskEntry]:
        """``folder`` is an image's. What is no folder there is nobody's either."""
        children = list(_children(folder))
        if not children:
            yield from _entry(Kind.EMPTY_FOLDER, folder, folder.name)
        for child in children:
            if child.name.startswith(BUILDING):
                yield from _entry(Kind.HALF_BUILT, child, child.name.removeprefix(BUILDING))
            elif child.name.startswith(GONE):
                yield from _entry(Kind.TEMPORARY, child, child.name)
            else:
                yield from _entry(Kind.SNAPSHOT_FOLDER, child, child.name)
                for path in _children(child):
                    if path.name.endswith(UNFINISHED):
                        yield from _entry(Kind.TEMPORARY, path, path.name)


def own_bytes(path: Path) -> int:
    """Allocated bytes of a file, or of all files below a folder, without other names elsewhere.

    It may be removed meanwhile, or be gone.
    """
    total = 0
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        below = () if path.is_symlink() else statuses_below(path)
        for status in (path.lstat(), *below):
            if status.st_nlink == 1 or stat.S_ISDIR(status.st_mode):
                total += status.st_blocks * 512
    return total


def _children(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield from sorted(folder.iterdir())


def _entry(kind: Kind, path: Path, owner: str) -> Iterator[DiskEntry]:
    changed_at = _changed_at(path)
    if changed_at is not None:
        yield DiskEntry(kind, path, owner, own_bytes(path), changed_at)


def _changed_at(path: Path) -> datetime | None:
    """When it was last written to; ``None`` if it is not there."""
    try:
        return datetime.fromtimestamp(path.lstat().st_mtime, UTC)
    except FileNotFoundError:
        return None


def _remove(one: DiskEntry) -> None:
    with contextlib.suppress(OSError):  # what is not gone is told, and tried again
        if one.kind is Kind.EMPTY_FOLDER and one.path.is_dir():
            one.path.rmdir()
        elif one.path.is_dir() and not one.path.is_symlink():
            shutil.rmtree(one.path)
        else:
            one.path.unlink(missing_ok=True)

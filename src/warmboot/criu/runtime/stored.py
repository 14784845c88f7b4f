"""What lies in the folder of checkpoints, as far as it is this manager's.

ROOT/<worker>/            owner: the worker
             /<name>/     owner: the worker and the checkpoint
             /.….making/  owner: itself, as long as the checkpoint is being made
             /.….gone/    nobody's, as is what an interrupted import has left
             /.store-id   whose it all is

Somebody else may use ``ROOT`` too, also another manager: only folders of workers are looked at, and
outside of the storage root only those that the manager has marked as its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from warmboot.criu.runtime.folders import GONE, MAKING, clear
from warmboot.model.garbage import DiskEntry, Kind
from warmboot.system.files import write_atomically

STORE_ID = ".store-id"
STAGING = ".warmboot-import-"
"""How the folder begins in which an import works."""

_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class StoredCheckpoints:
    """Those below ``root``. ``is_ours``: nobody else keeps anything there."""

    root: Path
    store_id: str
    is_ours: bool

    def mark(self, worker_id: UUID) -> None:
        """Have a folder for the worker's checkpoints that is known to be this manager's."""
        folder = self.root / str(worker_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _text(folder / STORE_ID) != self.store_id:
            write_atomically(folder / STORE_ID, self.store_id, durable=False)

    def find(self) -> list[DiskEntry]:
        """Everything that has an owner, or should have; a worker's folder before what is in it."""
        return [entry for folder in self._workers() for entry in _entries(folder)]

    def remove(self, one: DiskEntry) -> bool:
        """Whether it is gone; it stays when it was touched since it was looked at."""
        now = _entry(one.path, one.owner)
        if now == one:
            clear(one.path)
        return not one.path.exists()

    def _workers(self) -> Iterator[Path]:
        for path in _children(self.root):
            with contextlib.suppress(ValueError, OSError):
                is_folder = path.is_dir() and not path.is_symlink()
                if is_folder and str(UUID(path.name)) == path.name and self._is_ours(path):
                    yield path

    def _is_ours(self, folder: Path) -> bool:
        marked = _text(folder / STORE_ID)
        return marked == self.store_id or (self.is_ours and not marked)


def _entries(folder: Path) -> Iterator[DiskEntry]:
    found = [(folder, folder.name)]
    for path in _children(folder):
        left = path.name.endswith((MAKING, GONE)) or path.name.startswith(STAGING)
        if left or not path.name.startswith("."):
            found.append((path, f"{folder.name}/{path.name}"))
    for path, owner in found:
        entry = _entry(path, owner)
        if entry is not None:
            yield entry


def _entry(path: Path, owner: str) -> DiskEntry | None:
    """Its time is the newest change of anything in it: files that are copied keep their old one."""
    try:
        first = path.lstat()
    except FileNotFoundError:
        return None
    size_bytes, changed_s = first.st_blocks * _BLOCK_BYTES, first.st_ctime
    for parent, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                status = Path(parent, name).lstat()
                size_bytes += status.st_blocks * _BLOCK_BYTES
                changed_s = max(changed_s, status.st_ctime)
    changed_at = datetime.fromtimestamp(changed_s, UTC)
    return DiskEntry(Kind.CHECKPOINT_FOLDER, path, owner, size_bytes, changed_at)


def _children(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield from sorted(folder.iterdir())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""

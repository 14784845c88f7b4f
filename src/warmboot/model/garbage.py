"""Files and folders in the storage root, and what of them is garbage.

``DiskEntry`` and ``Cached`` are found by a scan of the disk; ``Garbage`` is one thing that may go,
and why; ``Collection`` is what a collection has done, or would do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from uuid import UUID


class Kind(StrEnum):
    """What a thing is. All but a snapshot are known to the database only by their owner's name.

    A restore copy is containerd's: what it has unpacked of a checkpoint, and never removes. A
    checkpoint is one of a worker; a checkpoint folder belongs to none.
    """

    SNAPSHOT = "snapshot"
    SNAPSHOT_FOLDER = "snapshot-folder"
    HALF_BUILT = "half-built"
    IMAGE_FOLDER = "image-folder"
    EMPTY_FOLDER = "empty-folder"
    VM_FOLDER = "vm-folder"
    ARCHIVE = "archive"
    TEMPORARY = "temporary"
    CACHE = "cache"
    RESTORE_COPY = "restore-copy"
    CHECKPOINT = "checkpoint"
    CHECKPOINT_FOLDER = "checkpoint-folder"


class Why(StrEnum):
    """``phrase`` completes "it goes because it is …"."""

    DELETED = "deleted"
    UNUSED = "unused"
    OVER_LIMIT = "over-limit"
    ORPHAN = "orphan"
    UNFINISHED = "unfinished"
    OVER_BUDGET = "over-budget"
    LOW_DISK = "low-disk"

    @property
    def phrase(self) -> str:
        return _PHRASES[self]


_PHRASES = {
    Why.DELETED: "deleted, and no VM needs it",
    Why.UNUSED: "unused for too long",
    Why.OVER_LIMIT: "the least used of too many",
    Why.ORPHAN: "nobody's",
    Why.UNFINISHED: "left unfinished",
    Why.OVER_BUDGET: "the least used of what is over its budget",
    Why.LOW_DISK: "cached, and the disk is nearly full",
}


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """Something on the disk. ``owner`` is the id or name that its own name tells."""

    kind: Kind
    path: Path
    owner: str
    size_bytes: int
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Cached:
    """A file that can be made again, of the snapshot ``owner``. ``in_use``: it is just being made,
    about to be opened, or mapped by a VM."""

    path: Path
    size_bytes: int
    last_used_at: datetime
    in_use: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """A worker's checkpoint. ``needed``: it may not go, whatever the budget."""

    id: UUID
    name: str
    path: Path
    size_bytes: int
    created_at: datetime
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Garbage:
    """``name`` is what a person knows it by. A snapshot has an id, everything else a path."""

    kind: Kind
    name: str
    why: Why
    size_bytes: int
    path: Path | None = None
    snapshot_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """``removed`` is gone (or would be, in a dry run); ``kept`` could not be removed this time."""

    dry_run: bool
    removed: tuple[Garbage, ...]
    kept: tuple[Garbage, ...] = ()
    seconds: float = 0.0

    @property
    def freed_bytes(self) -> int:
        return sum(one.size_bytes for one in self.removed)

    @property
    def by_reason(self) -> dict[str, int]:
        return dict(Counter(one.why.value for one in self.removed))

"""Chooses the garbage among snapshots, files and caches: a pure function.

    snapshots   deleted, not leased ──────────────────────────────▶ deleted
                unused for so many days ──────────────────────────▶ unused
                more than so many: the one unused for longest ────▶ over-limit
                of the depth image: the same; over their bytes ───▶ over-limit, over-budget
    the rest    belongs to no row of the database ────────────────▶ orphan, unfinished
    caches      over their budget, least recently used first ─────▶ over-budget
                less room on the disk than the floor ─────────────▶ low-disk
    checkpoints over their budget, oldest first ──────────────────▶ over-budget

Never: what is pinned, leased, being built or worked on, what a rebuild will replace (until it
does, that is all there is), and what a user has frozen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from warmboot.model.garbage import Cached, DiskEntry, Garbage, Kept, Kind, Why
from warmboot.model.runtime_snapshot import Depth, RuntimeSnapshot, SnapshotState

ARCHIVE_KEPT = timedelta(days=1)
"""How long an uploaded archive is kept after its last use by a container that is no more."""

UNFINISHED_KEPT = timedelta(hours=1)
"""Temporary files and VMs' folders younger than this may be just in the making."""

GRACE: Mapping[Kind, timedelta] = {
    Kind.ARCHIVE: ARCHIVE_KEPT,
    Kind.TEMPORARY: UNFINISHED_KEPT,
    Kind.VM_FOLDER: UNFINISHED_KEPT,
    Kind.RESTORE_COPY: UNFINISHED_KEPT,
    Kind.CHECKPOINT_FOLDER: UNFINISHED_KEPT,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """``room_for``: so many further snapshots are to fit. ``unused_after`` None: never too old.

    ``checkpoint_budget_bytes`` 0: no budget; nor have those of the depth ``image`` one with
    ``image_budget_bytes`` 0. ``max_images`` is how many of these there may be, and
    ``room_for_images`` how many further ones are to fit.
    """

    max_active: int
    unused_after: timedelta | None = timedelta(days=30)
    cache_budget_bytes: int = 0
    disk_floor_bytes: int = 0
    room_for: int = 0
    checkpoint_budget_bytes: int = 0
    max_images: int = 16
    room_for_images: int = 0
    image_budget_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """All that the decision is made from.

    ``leased`` and ``busy`` are ids of snapshots: mapped by a VM; being packed, unpacked or checked.
    ``known`` has, for each kind of thing on the disk, the owners that the database knows.
    ``sizes`` is what removing a snapshot frees, where that was measured, by its folder's name.
    """

    snapshots: Collection[RuntimeSnapshot] = ()
    leased: Collection[UUID] = frozenset()
    busy: Collection[UUID] = frozenset()
    entries: Collection[DiskEntry] = ()
    known: Mapping[Kind, Collection[str]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    caches: Collection[Cached] = ()
    free_bytes: int = 0
    checkpoints: Collection[Kept] = ()


def choose_garbage(seen: Seen, limits: Limits, now: datetime) -> tuple[Garbage, ...]:
    """Everything that may go, each thing once, in the order in which it is to go."""
    found = [*_snapshots(seen, limits, now), *lying(seen.entries, seen.known, now)]
    found += over_budget(seen.checkpoints, limits.checkpoint_budget_bytes)
    free_bytes = seen.free_bytes + sum(one.size_bytes for one in found)
    return (*found, *_caches(seen, limits, free_bytes))


def active_count(snapshots: Collection[RuntimeSnapshot]) -> int:
    """Those that count against the limit: all versions but deleted ones, and rebuilds, which give
    their place back."""
    return _count(snapshots, Depth.RUNTIME)


def image_count(snapshots: Collection[RuntimeSnapshot]) -> int:
    """The same of the depth ``image``."""
    return _count(snapshots, Depth.IMAGE)


def _count(snapshots: Collection[RuntimeSnapshot], depth: Depth) -> int:
    alive = {s.id for s in snapshots if s.state is not SnapshotState.DELETED}
    return sum(
        1
        for s in snapshots
        if s.id in alive
        and s.depth is depth
        and not (s.state is SnapshotState.CREATING and s.replaces in alive)
    )


def _snapshots(seen: Seen, limits: Limits, now: datetime) -> Iterator[Garbage]:
    for snapshot in seen.snapshots:
        if snapshot.state is SnapshotState.DELETED and snapshot.id not in seen.leased:
            yield _garbage(snapshot, seen, Why.DELETED)
    candidates = sorted((s for s in seen.snapshots if _may_go(s, seen)), key=_use)
    old: list[RuntimeSnapshot] = []
    if limits.unused_after is not None:
        limit = now - limits.unused_after
        old = [s for s in candidates if last_used(s) <= limit]
    yield from (_garbage(snapshot, seen, Why.UNUSED) for snapshot in old)
    rest = [s for s in candidates if s not in old and s.is_version]
    gone = sum(s.is_version for s in old)
    excess = active_count(seen.snapshots) - gone + limits.room_for - limits.max_active
    yield from (_garbage(snapshot, seen, Why.OVER_LIMIT) for snapshot in rest[: max(0, excess)])
    yield from _with_images([s for s in candidates if s not in old], old, seen, limits)


def _with_images(
    rest: Collection[RuntimeSnapshot],
    old: Collection[RuntimeSnapshot],
    seen: Seen,
    limits: Limits,
) -> Iterator[Garbage]:
    """Those of the depth ``image`` that are too many, then those that take too much."""
    may_go = [s for s in rest if s.depth is Depth.IMAGE]
    gone = sum(s.depth is Depth.IMAGE for s in old)
    excess = image_count(seen.snapshots) - gone + limits.room_for_images - limits.max_images
    too_many, rest = may_go[: max(0, excess)], may_go[max(0, excess) :]
    yield from (_garbage(snapshot, seen, Why.OVER_LIMIT) for snapshot in too_many)
    stay = [
        s
        for s in seen.snapshots
        if s.depth is Depth.IMAGE and s.state is not SnapshotState.DELETED
        if s not in old and s not in too_many
    ]
    total_bytes = sum(s.stored_bytes or 0 for s in stay)
    for snapshot in rest:
        if not limits.image_budget_bytes or total_bytes <= limits.image_budget_bytes:
            return
        yield _garbage(snapshot, seen, Why.OVER_BUDGET)
        total_bytes -= snapshot.stored_bytes or 0


def _may_go(snapshot: RuntimeSnapshot, seen: Seen) -> bool:
    return (
        snapshot.state in (SnapshotState.READY, SnapshotState.UNHEALTHY)
        and not snapshot.pinned
        and snapshot.is_reproducible
        and snapshot.id not in seen.leased
        and snapshot.id not in seen.busy
        and not is_relied_on(snapshot, seen.snapshots)
    )


def is_relied_on(snapshot: RuntimeSnapshot, snapshots: Collection[RuntimeSnapshot]) -> bool:
    """Its successor is being built: until that is ready, this one is what there is."""
    return any(s.state is SnapshotState.CREATING and s.replaces == snapshot.id for s in snapshots)


def last_used(snapshot: RuntimeSnapshot) -> datetime:
    """A snapshot that was never used counts from when it was made."""
    return snapshot.last_used_at or snapshot.created_at


def _use(snapshot: RuntimeSnapshot) -> tuple[bool, datetime, int, UUID]:
    """What cannot be used goes before what can, then what was not used for longest."""
    usable = snapshot.state is SnapshotState.READY
    return usable, last_used(snapshot), snapshot.success_count, snapshot.id


def _garbage(snapshot: RuntimeSnapshot, seen: Seen, why: Why) -> Garbage:
    size_bytes = seen.sizes.get(str(snapshot.id), int(snapshot.metadata.get("size_bytes") or 0))
    return Garbage(
        Kind.SNAPSHOT, str(snapshot.id), why, size_bytes, snapshot.snapshot_path, snapshot.id
    )


def over_budget(checkpoints: Collection[Kept], budget_bytes: int) -> Iterator[Garbage]:
    """Those that go, oldest first, so that what stays is within the budget, if there is one."""
    total = sum(one.size_bytes for one in checkpoints)
    may_go = (one for one in checkpoints if not one.needed)
    for one in sorted(may_go, key=lambda one: (one.created_at, one.id)):
        if budget_bytes and total > budget_bytes:
            yield Garbage(Kind.CHECKPOINT, one.name, Why.OVER_BUDGET, one.size_bytes, one.path)
            total -= one.size_bytes


def lying(
    entries: Collection[DiskEntry], known: Mapping[Kind, Collection[str]], now: datetime
) -> Iterator[Garbage]:
    """What has no owner any more; of folders in one another the outer one."""
    gone: set[Path] = set()
    for one in entries:
        if one.owner in known.get(one.kind, ()) or one.path.parent in gone:
            continue
        if now - one.changed_at < GRACE.get(one.kind, timedelta(0)):
            continue
        unfinished = one.kind in (Kind.TEMPORARY, Kind.HALF_BUILT)
        why = Why.UNFINISHED if unfinished else Why.ORPHAN
        gone.add(one.path)
        yield Garbage(one.kind, one.path.name, why, one.size_bytes, one.path)


def _caches(seen: Seen, limits: Limits, free_bytes: int) -> Iterator[Garbage]:
    known = seen.known.get(Kind.CACHE)
    total = sum(one.size_bytes for one in seen.caches)

    def why(one: Cached) -> Why | None:
        if known is not None and one.owner not in known:
            return Why.ORPHAN
        if total > limits.cache_budget_bytes:
            return Why.OVER_BUDGET
        return Why.LOW_DISK if free_bytes < limits.disk_floor_bytes else None

    def order(one: Cached) -> tuple[bool, datetime, Path]:
        return known is None or one.owner in known, one.last_used_at, one.path

    for one in sorted(seen.caches, key=order):
        reason = None if one.in_use else why(one)
        if reason is not None:
            yield Garbage(Kind.CACHE, one.path.name, reason, one.size_bytes, one.path)
            total -= one.size_bytes
            free_bytes += one.size_bytes

"""Plans which snapshots are rebuilt automatically, and when: a pure function.

    broken (unhealthy) ──┐
                         ├─▶ due ──rebuild──▶ swapped
    does not fit here ───┘    ▲          │ failed
                              └─ later ◀─┘ each time four times as late, at last never: given up

What a full disk has put off is due as soon as there is room. While its image is damaged nothing is.
Images are prepared anew one after the other; that takes as long as a registry does, and what boots
anything at all, a version, does not wait for it.

What a user has ordered and what could not be built then is not tried again: the user was told.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from warmboot.model.errors import DiskFull
from warmboot.model.runtime_snapshot import (
    BuildCause,
    Depth,
    HostRequirements,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.snapshot_fit import FitKind, fit_of

_GROWTH = 4
_LONGEST_S = 3600.0
_WITHOUT_VERDICT = 3
"""Such a build took as long as any, and why it broke off may last: the pause of a third failure."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``attempts`` rebuilds one after the other may fail; the first pause is ``pause_s``."""

    attempts: int = 5
    pause_s: float = 30.0

    def pause_after(self, failures: int) -> timedelta:
        """How long to wait after so many failures in a row (at least 1); an hour at most."""
        return timedelta(seconds=min(_LONGEST_S, self.pause_s * _GROWTH ** min(failures - 1, 10)))

    @property
    def pause_without_verdict(self) -> timedelta:
        """How long to wait after a build that broke off and proved nothing; it is not counted."""
        return self.pause_after(_WITHOUT_VERDICT)

    def has_given_up(self, snapshot: RuntimeSnapshot) -> bool:
        return snapshot.rebuild_failures >= self.attempts


@dataclass(frozen=True, slots=True)
class Due:
    snapshot: RuntimeSnapshot
    cause: BuildCause
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What may begin now, versions first, and the most used ones of them; and when the next may, if
    that is later."""

    due: tuple[Due, ...]
    next_at: datetime | None


def plan_rebuilds(
    snapshots: Collection[RuntimeSnapshot],
    here: HostRequirements,
    now: datetime,
    policy: RetryPolicy,
    room_mib: int = 0,
    damaged_images: Collection[UUID] = (),
) -> Plan:
    """``room_mib``: what is free above the disk's floor."""
    creating = [s for s in snapshots if s.state is SnapshotState.CREATING]
    under_way = {s.replaces for s in creating}
    prepares = any(s.depth is Depth.IMAGE and s.cause.automatic for s in creating)
    due: list[Due] = []
    later: list[datetime] = []
    for snapshot in snapshots:
        wish = _wish(snapshot, snapshots, here)
        if wish is None or snapshot.id in under_way or policy.has_given_up(snapshot):
            continue
        if snapshot.runtime_image_id in damaged_images:
            continue
        if prepares and snapshot.depth is Depth.IMAGE:
            continue
        not_before = _not_before(snapshot, policy, room_mib)
        if not_before is not None and not_before > now:
            later.append(not_before)
        else:
            due.append(wish)
    due.sort(key=lambda d: _urgency(d.snapshot), reverse=True)
    return Plan(tuple(due), min(later, default=None))


def _urgency(snapshot: RuntimeSnapshot) -> tuple[bool, int, datetime]:
    return snapshot.is_version, snapshot.success_count, snapshot.created_at


def waits_for_room(snapshot: RuntimeSnapshot) -> bool:
    return snapshot.rebuild_put_off_by == DiskFull.code


def _not_before(snapshot: RuntimeSnapshot, policy: RetryPolicy, room_mib: int) -> datetime | None:
    """Room is what a rebuild needs. The first pause keeps a disk that others fill again and again
    from being filled by rebuilds, too."""
    put_off_until = snapshot.rebuild_not_before
    if put_off_until is None or not waits_for_room(snapshot):
        return put_off_until
    if room_mib < _needed_mib(snapshot):
        return put_off_until
    return put_off_until - policy.pause_without_verdict + policy.pause_after(1)


def _needed_mib(snapshot: RuntimeSnapshot) -> int:
    """Room for its memory; of an image that was prepared before, for what that took."""
    stored_mib = (snapshot.stored_bytes or 0) >> 20 if snapshot.depth is Depth.IMAGE else 0
    return max(snapshot.shape.memory_mib, stored_mib)


def _wish(
    snapshot: RuntimeSnapshot, snapshots: Collection[RuntimeSnapshot], here: HostRequirements
) -> Due | None:
    if not snapshot.is_reproducible:  # a user's: nothing is what it was but itself
        return None
    fit = fit_of(snapshot, here)
    if snapshot.depth is Depth.IMAGE:
        bases = [
            one.id
            for one in snapshots
            if one.is_version
            and (one.runtime_image_id, one.shape) == (snapshot.runtime_image_id, snapshot.shape)
            and fit_of(one, here).usable
        ]
        if not bases:  # its time comes when there is one
            return None
        if fit.usable and snapshot.parent_id not in bases:
            return Due(snapshot, BuildCause.BASE, "what it lies on is no longer used")
    if fit.kind is FitKind.BROKEN:
        was_ready = "requires" in snapshot.metadata
        if was_ready or snapshot.cause.automatic:
            return Due(snapshot, BuildCause.UNHEALTHY, fit.why)
    elif fit.kind is FitKind.NOT_HERE:
        return Due(snapshot, BuildCause.MIGRATION, fit.why)
    return None

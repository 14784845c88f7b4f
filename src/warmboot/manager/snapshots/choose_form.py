"""Chooses snapshots to compress, to unpack and to check: pure functions.

plain ──── not used for so long ───▶ compressed
compressed ── so many boots within a while ──▶ plain
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from warmboot.manager.garbage.choose_garbage import is_relied_on, last_used
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState

CHECKED_AT = "checked_at"
"""When all sums were taken last: a key of a snapshot's metadata, ISO 8601."""


class Form(StrEnum):
    """How memory is stored. The value completes "it is …"."""

    COMPRESSED = "compressed"
    PLAIN = "unpacked"


def form_of(snapshot: RuntimeSnapshot) -> Form:
    return Form.COMPRESSED if snapshot.metadata.get("compressed") else Form.PLAIN


@dataclass(frozen=True, slots=True)
class FormPolicy:
    """``None``: never. ``unpack_after`` boots within ``unpack_within`` make a snapshot hot."""

    compress_after: timedelta | None = None
    unpack_after: int | None = None
    unpack_within: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Use:
    """How often a snapshot was used since a moment; what makes it hot."""

    since: datetime
    boots: int


class RecentUse:
    """Counts boots within a while, from the totals that rows have."""

    def __init__(self, within: timedelta) -> None:
        self._within = within
        self._began: dict[UUID, Use] = {}

    def note(self, snapshots: Collection[RuntimeSnapshot], now: datetime) -> dict[UUID, int]:
        """Boots of each snapshot in the present while; a new one begins when it is over."""
        known = {s.id: s for s in snapshots}
        self._began = {id_: use for id_, use in self._began.items() if id_ in known}
        recent: dict[UUID, int] = {}
        for snapshot in snapshots:
            use = self._began.get(snapshot.id)
            if use is None or now - use.since > self._within:
                use = self._began[snapshot.id] = Use(now, snapshot.success_count)
            recent[snapshot.id] = snapshot.success_count - use.boots
        return recent


def choose_forms(
    snapshots: Collection[RuntimeSnapshot],
    recent: Mapping[UUID, int],
    leased: Collection[UUID],
    policy: FormPolicy,
    now: datetime,
) -> list[tuple[RuntimeSnapshot, Form]]:
    """What is to change, hot ones first: they are waited for.

    One that a VM maps is not compressed: its plain memory would go on taking its room beside.
    """
    hot, cold = [], []
    for snapshot in snapshots:
        if snapshot.state is not SnapshotState.READY or is_relied_on(snapshot, snapshots):
            continue
        boots = recent.get(snapshot.id, 0)
        is_hot = policy.unpack_after is not None and boots >= policy.unpack_after
        is_compressed = form_of(snapshot) is Form.COMPRESSED
        if is_hot and is_compressed:
            hot.append((snapshot, Form.PLAIN))
        if policy.compress_after is None or is_hot or is_compressed or snapshot.id in leased:
            continue
        if now - last_used(snapshot) >= policy.compress_after:
            cold.append((snapshot, Form.COMPRESSED))
    return [*hot, *cold]


def choose_check(
    snapshots: Collection[RuntimeSnapshot], every: timedelta | None, now: datetime
) -> RuntimeSnapshot | None:
    """The ready snapshot whose check is due for longest. One at a time: so they spread."""
    if every is None:
        return None
    ready = (s for s in snapshots if s.state is SnapshotState.READY)
    due = [s for s in ready if now - checked_at(s) >= every]
    return min(due, key=checked_at, default=None)


def checked_at(snapshot: RuntimeSnapshot) -> datetime:
    """The time at which a snapshot's sums were taken last: at the latest when it was built."""
    noted = snapshot.metadata.get(CHECKED_AT)
    return datetime.fromisoformat(noted) if isinstance(noted, str) else snapshot.created_at

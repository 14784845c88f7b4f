"""Periodic housekeeping: garbage collection, compression, integrity checks.

    every day      garbage is collected
    all the time   what is hot is unpacked, what is cold compressed, what is due checked

One thing after the other, and all of it with what processor time is left over. What fails is logged
and counted, and tried again some looks later.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from warmboot.manager.core.background import Failed, Work, one_round
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.garbage.compress_checkpoints import CompressCheckpoints
from warmboot.manager.snapshots.check_integrity import CheckIntegrity
from warmboot.manager.snapshots.choose_form import FormPolicy, RecentUse, choose_check, choose_forms
from warmboot.manager.snapshots.compress_snapshot import CompressSnapshot
from warmboot.store import Store

LAST_COLLECTION = "gc.last"
_SHORTEST_S, _LONGEST_S = 0.05, 60.0
_ROUNDS_PER_INTERVAL = 4
"""Rounds within the shortest of the intervals."""
_ROUNDS_BEFORE_RETRY = 10
"""Rounds from one attempt to the next."""


@dataclass(frozen=True, slots=True)
class HousekeepingConfig:
    """``None``: never."""

    collect_every: timedelta | None = timedelta(days=1)
    check_every: timedelta | None = timedelta(days=1)
    forms: FormPolicy = field(default_factory=FormPolicy)

    @property
    def round_every_s(self) -> float:
        """Often enough for the shortest interval, and never more often than makes sense."""
        intervals = (
            self.collect_every,
            self.check_every,
            self.forms.compress_after,
            self.forms.unpack_within if self.forms.unpack_after is not None else None,
        )
        shortest = min(
            (i.total_seconds() for i in intervals if i is not None),
            default=_LONGEST_S * _ROUNDS_PER_INTERVAL,
        )
        return min(_LONGEST_S, max(_SHORTEST_S, shortest / _ROUNDS_PER_INTERVAL))


class Housekeeping:
    """Call it as a task; it goes on until it is cancelled."""

    def __init__(
        self,
        store: Store,
        garbage: CollectGarbage,
        forms: CompressSnapshot,
        check: CheckIntegrity,
        config: HousekeepingConfig,
        failed: Failed,
        checkpoints: CompressCheckpoints | None = None,
    ) -> None:
        self._store = store
        self._garbage = garbage
        self._forms = forms
        self._check = check
        self._config = config
        self._failed = failed
        self._checkpoints = checkpoints
        self._recent = RecentUse(config.forms.unpack_within)
        self._tried: dict[object, datetime] = {}

    async def __call__(self) -> None:
        while True:
            await one_round(Work.HOUSEKEEPING, self.run_due(datetime.now(UTC)), self._failed)
            await asyncio.sleep(self._config.round_every_s)

    async def run_due(self, now: datetime) -> None:
        """Do what is due."""
        await self._collect(now)
        snapshots = await self._store.snapshots.list()
        recent = self._recent.note(snapshots, now)
        leased = [s.id for s in snapshots if await self._store.snapshots.leases(s.id)]
        for snapshot, form in choose_forms(snapshots, recent, leased, self._config.forms, now):
            if self._may_try((snapshot.id, form), now):
                await self._forms.change(snapshot.id, form)
        await self._compress_checkpoints(now)
        due = choose_check(await self._store.snapshots.list(), self._config.check_every, now)
        if due is not None:
            await self._check(due.id)

    async def _compress_checkpoints(self, now: datetime) -> None:
        if self._checkpoints is not None:
            for checkpoint in await self._checkpoints.cold(now):
                if self._may_try(checkpoint.id, now):
                    await self._checkpoints.compress(checkpoint.id)

    async def _collect(self, now: datetime) -> None:
        """It counts once it came to its end: one that failed or was broken off is due still."""
        meta = self._store.meta
        last = await meta.get(LAST_COLLECTION)
        if last is None:  # a start is no reason to collect
            last = await meta.set_default(LAST_COLLECTION, now.isoformat())
        every = self._config.collect_every
        if every is None or now - datetime.fromisoformat(last) < every:
            return
        if self._may_try(LAST_COLLECTION, now):
            await self._garbage.collect()
            await meta.set(LAST_COLLECTION, now.isoformat())
            self._tried.pop(LAST_COLLECTION, None)

    def _may_try(self, key: object, now: datetime) -> bool:
        """What did not work a moment ago (a full disk) is not tried again at once."""
        wait = timedelta(seconds=self._config.round_every_s * _ROUNDS_BEFORE_RETRY)
        self._tried = {tried: at for tried, at in self._tried.items() if now - at < wait}
        return self._tried.setdefault(key, now) is now

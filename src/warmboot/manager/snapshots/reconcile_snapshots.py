"""The reconciler of snapshots: rebuilds those that are unhealthy or do not fit this host.

    at start ──┐
    attention ─┼─▶ reconcile ─▶ host changed? ─▶ what fits? ─▶ plan ─▶ one rebuild ─▶ wait
    every 30 s ┘                                                 (the old one serves until the swap)

One rebuild at a time is begun from here: a machine on which the hypervisor was upgraded has many.
Of a prepared image's there may be one beside one of a version, which does not wait for a registry.
``attention`` is set by whoever finds a snapshot broken or unfit, and when a build is over. What
refuses a rebuild and is not the snapshot's fault, such as a full disk, is told once and waited for:
whether there is room again is looked at every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.background import Failed, Work, one_round
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.snapshots.plan_rebuilds import (
    Due,
    Plan,
    RetryPolicy,
    plan_rebuilds,
    waits_for_room,
)
from warmboot.manager.snapshots.retries import NO_VERDICT, note_failed_build, tell_put_off
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.model.errors import Conflict, DiskFull, IllegalTransition, NotFound, WarmbootError
from warmboot.model.runtime_snapshot import HostRequirements, RuntimeSnapshot, SnapshotState
from warmboot.model.snapshot_fit import FitKind, fit_of
from warmboot.store import Store

log = structlog.get_logger(__name__)

_HOST = "host"


@dataclass(frozen=True, slots=True)
class ReconcilerConfig:
    """``enabled``: whether rebuilds are begun; without, it is only told what does not fit."""

    enabled: bool = True
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    every_s: float = 30.0
    room_every_s: float = 2.0


class SnapshotReconciler:
    """Call it as a task; it reconciles until it is cancelled."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        snapshots: RuntimeSnapshots,
        attention: asyncio.Event,
        config: ReconcilerConfig,
        failed: Failed,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._snapshots = snapshots
        self._attention = attention
        self._config = config
        self._failed = failed
        self._here: HostRequirements | None = None
        self._told: set[UUID] = set()
        self._refused_by: str | None = None

    async def __call__(self) -> None:
        while True:
            self._attention.clear()
            pause_s = await one_round(Work.RECONCILE_SNAPSHOTS, self.reconcile(), self._failed)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.every_s if pause_s is None else pause_s):
                    await self._attention.wait()

    async def reconcile(self) -> float:
        """Once: begin at most one rebuild; how many seconds until the next time."""
        probe = await self._host.probe()
        if not (probe.usable and probe.capabilities.snapshots):
            return self._config.every_s
        if probe.host != self._here:
            await self._arrived(probe.host)
            self._here = probe.host
        snapshots = await self._store.snapshots.list()
        await self._tell_unfit(snapshots, probe.host)
        if not self._config.enabled or _is_building(snapshots):
            return self._config.every_s  # attention is set when it is over
        now = datetime.now(UTC)
        plan = await self._plan(snapshots, probe.host, now)
        await self._begin_one(plan.due)
        # Anew: what was refused just now has its time by now.
        snapshots = await self._store.snapshots.list()
        plan = await self._plan(snapshots, probe.host, now)
        pause_s = self._config.every_s
        if self._refused_by == DiskFull.code or any(map(waits_for_room, snapshots)):
            pause_s = min(pause_s, self._config.room_every_s)  # nothing tells that there is room
        if plan.next_at is None:
            return pause_s
        left_s = (plan.next_at - datetime.now(UTC)).total_seconds()
        return min(pause_s, max(0.0, left_s))

    async def _plan(
        self, snapshots: Sequence[RuntimeSnapshot], here: HostRequirements, now: datetime
    ) -> Plan:
        images = await self._store.images.list()
        damaged = {image.id for image in images if image.damage is not None}
        room_mib = self._host.storage.room_bytes() >> 20
        return plan_rebuilds(snapshots, here, now, self._config.retry, room_mib, damaged)

    async def _arrived(self, here: HostRequirements) -> None:
        """On another kind of host than last time, what was given up deserves another try."""
        known, text = await self._store.meta.get(_HOST), json.dumps(asdict(here), sort_keys=True)
        if known == text:
            return
        if known is not None:
            log.warning("this host is another one than before", before=known, now=text)
            await self._events.emit(
                "host.changed", "host", before=json.loads(known), now=asdict(here)
            )
            for snapshot in await self._store.snapshots.list():
                if snapshot.rebuild_failures:
                    await self._store.snapshots.forget_rebuild_failures(snapshot.id)
        await self._store.meta.set(_HOST, text)

    async def _tell_unfit(
        self, snapshots: Sequence[RuntimeSnapshot], here: HostRequirements
    ) -> None:
        unfit = {s.id: fit_of(s, here) for s in snapshots if s.state is SnapshotState.READY}
        unfit = {id_: fit for id_, fit in unfit.items() if fit.kind is FitKind.NOT_HERE}
        for snapshot_id in unfit.keys() - self._told:
            fit = unfit[snapshot_id]
            log.warning(f"Runtime snapshot {snapshot_id} cannot be used here: {fit.why}")
            await self._events.emit(
                "runtime-snapshot.unusable", snapshot_id, requirement=fit.requirement, why=fit.why
            )
        self._told = set(unfit)

    async def _begin_one(self, wanted: Sequence[Due]) -> None:
        """The first that can be begun; what would refuse the others, too, ends the look."""
        refused_by = None
        for due in wanted:
            try:
                if await self._rebuild(due):
                    break
            except NO_VERDICT as error:
                refused_by = error.code
                if refused_by != self._refused_by:
                    await tell_put_off(self._events, due.snapshot.id, error)
                break
        self._refused_by = refused_by

    async def _rebuild(self, due: Due) -> bool:
        """Whether one was begun. Raises what says nothing about the snapshot."""
        try:
            await self._snapshots.rebuild_for(due.snapshot.id, due.cause)
        except (Conflict, IllegalTransition, NotFound):  # somebody was faster
            return False
        except NO_VERDICT:
            raise
        except WarmbootError as error:
            retry = self._config.retry
            await note_failed_build(self._store, self._events, retry, due.snapshot.id, error)
            return False
        log.info(f"Runtime snapshot {due.snapshot.id} is rebuilt ({due.cause}): {due.why}")
        return True


def _is_building(snapshots: Sequence[RuntimeSnapshot]) -> bool:
    """A version; how many images are prepared at a time is planned."""
    creating = (s for s in snapshots if s.state is SnapshotState.CREATING and s.is_version)
    return any(s.cause.automatic for s in creating)

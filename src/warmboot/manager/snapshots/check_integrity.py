"""Verifies the checksums of snapshots in the background; damaged ones are rebuilt.

A snapshot whose folder was removed by hand is damaged like any other. Boots meanwhile go on with
another version, or cold: only what is ``ready`` is restored. The check takes only what processor
time is left over.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.admission import BootAdmission
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.snapshots.choose_form import CHECKED_AT
from warmboot.manager.snapshots.snapshot_health import SnapshotHealth
from warmboot.model.errors import NotFound, SnapshotDamaged
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.store import Store

log = structlog.get_logger(__name__)


class CheckIntegrity:
    """Call it with a snapshot's id; whether it is intact."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        health: SnapshotHealth,
        admission: BootAdmission,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._health = health
        self._admission = admission

    async def __call__(self, snapshot_id: UUID) -> bool:
        async with self._admission.background(snapshot_id):
            try:
                return await self._check(snapshot_id)
            except NotFound:  # deleted meanwhile, and forgotten
                return True

    async def _check(self, snapshot_id: UUID) -> bool:
        snapshot = await self._store.snapshots.get(snapshot_id)
        watch = Stopwatch()
        try:
            await self._host.snapshots.verify(snapshot.snapshot_path, low_priority=True)
        except SnapshotDamaged as error:
            now = await self._store.snapshots.get(snapshot_id)
            if now.state is SnapshotState.READY:
                await self._health.failed(now, error)
            return now.state is not SnapshotState.READY
        await self._store.snapshots.update_metadata(
            snapshot_id, {CHECKED_AT: datetime.now(UTC).isoformat()}
        )
        await self._events.emit(
            "runtime-snapshot.checked", snapshot_id, seconds=round(watch.elapsed_s, 3)
        )
        return True

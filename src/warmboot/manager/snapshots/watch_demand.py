"""Builds a snapshot for a shape that is often requested.

    cold boot, shape_mismatch ─▶ runtime-snapshot.wanted ─▶ judge ─▶ runtime-snapshot.creating

The misses are kept as events, so they outlast a restart; ``start`` reads them back.
"""

from __future__ import annotations

from collections import defaultdict, deque
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.manager.snapshots.shape_demand import DemandPolicy, judge_demand
from warmboot.model.errors import DiskFull, WarmbootError
from warmboot.model.runtime_snapshot import BuildCause
from warmboot.model.shapes import Shape
from warmboot.store import Store

log = structlog.get_logger(__name__)

_REMEMBERED = 1000


class WatchDemand:
    """Call ``missed`` after a boot that was cold because no snapshot has its shape."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        snapshots: RuntimeSnapshots,
        policy: DemandPolicy,
        max_active: int,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._snapshots = snapshots
        self._policy = policy
        self._max_active = max_active
        self._misses: defaultdict[tuple[UUID, Shape], deque[datetime]] = defaultdict(
            lambda: deque(maxlen=_REMEMBERED)
        )

    async def start(self) -> None:
        since = datetime.now(UTC) - timedelta(seconds=self._policy.window_s)
        for event in await self._store.events.of_kind("runtime-snapshot.wanted", since):
            vcpus, memory_mib = event.data["shape"]
            wanted = UUID(event.subject_id), Shape(vcpus, memory_mib)
            self._misses[wanted].append(event.at)

    async def missed(self, image_id: UUID, shape: Shape) -> None:
        now = datetime.now(UTC)
        misses = self._misses[image_id, shape]
        misses.append(now)
        known = [s for s in await self._store.snapshots.list() if s.is_version]
        if any(s.runtime_image_id == image_id and s.shape == shape for s in known):
            return  # begun since
        demand = judge_demand(
            misses,
            now,
            self._policy,
            active=len(known),
            max_active=self._max_active,
            has_room=self._has_room(),
        )
        told = [shape.vcpus, shape.memory_mib]
        await self._events.emit(
            "runtime-snapshot.wanted",
            image_id,
            shape=told,
            asked=demand.asked,
            build=demand.build,
            why=demand.why,
        )
        if not demand.build:
            return
        log.info(f"The shape {shape} gets a runtime snapshot of its own: {demand.why}")
        try:
            await self._snapshots.create(image_id, shape, cause=BuildCause.DEMAND)
        except WarmbootError as error:
            log.warning(f"The shape {shape} gets no runtime snapshot: {error.brief}")

    def _has_room(self) -> bool:
        try:
            self._host.storage.check_room()
        except DiskFull:
            return False
        return True

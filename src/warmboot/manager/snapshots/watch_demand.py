"""Builds a snapshot for a shape that is often requested, or an image that is often started.

    cold boot, shape_mismatch ─▶ runtime-snapshot.wanted ─▶ judge ─▶ runtime-snapshot.creating

The misses are kept as events, so they outlast a restart; ``start`` reads them back. Starts of
images are counted in memory: they are many, and what is started often is soon counted again.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from warmboot.docker.references import with_tag
from warmboot.host.agent import HostAgent
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.garbage.choose_garbage import image_count
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.manager.snapshots.shape_demand import DemandPolicy, judge_demand
from warmboot.model.errors import DiskFull, WarmbootError
from warmboot.model.runtime_snapshot import BuildCause, RuntimeSnapshot
from warmboot.model.shapes import Shape
from warmboot.store import Store
from warmboot.system.disks import os_error

log = structlog.get_logger(__name__)

_REMEMBERED = 1000
_IMAGES_REMEMBERED = 1000


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
        return _has_room(self._host)


class WatchImages:
    """Call ``started`` after the start of a container whose image was not there before it."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        tasks: Tasks,
        snapshots: RuntimeSnapshots,
        policy: DemandPolicy,
        max_images: int,
    ) -> None:
        self._store = store
        self._host = host
        self._tasks = tasks
        self._snapshots = snapshots
        self._policy = policy
        self._max_images = max_images
        self._starts: OrderedDict[tuple[str, UUID, Shape], deque[datetime]] = OrderedDict()

    def started(self, reference: str, base_id: UUID) -> None:
        """``base_id``: the snapshot that it was booted from. What comes of that is none of the
        container's: it neither waits for it, nor fails or ends with it."""
        if self._policy.boots:
            name = with_tag(reference)
            self._tasks.start(f"demand for {name}", self._judge(name, base_id))

    async def _judge(self, name: str, base_id: UUID) -> None:
        try:
            await self._started(name, await self._store.snapshots.get(base_id))
        except (WarmbootError, OSError) as error:
            cause = os_error(error) if isinstance(error, OSError) else error
            log.warning(f"The image {name} is not prepared: {cause.brief}")

    async def _started(self, name: str, base: RuntimeSnapshot) -> None:
        if not base.is_version:
            return
        now, key = datetime.now(UTC), (name, base.runtime_image_id, base.shape)
        starts = self._starts.setdefault(key, deque(maxlen=_REMEMBERED))
        self._starts.move_to_end(key)
        if len(self._starts) > _IMAGES_REMEMBERED:
            self._starts.popitem(last=False)
        starts.append(now)
        known = await self._store.snapshots.with_image(base.runtime_image_id, name)
        if any(one.shape == base.shape for one in known):
            return  # it is being prepared, or the reconciler's
        demand = judge_demand(
            starts,
            now,
            self._policy,
            active=image_count(await self._store.snapshots.list()),
            max_active=self._max_images,
            has_room=_has_room(self._host),
            limit="MANAGER_MAX_IMAGE_SNAPSHOTS",
        )
        if demand.asked < self._policy.boots:
            return
        if not demand.build:
            log.info(f"The image {name} is not prepared: {demand.why}")
            return
        log.info(f"The image {name} is prepared: {demand.why}")
        starts.clear()  # if it is refused, or goes again, that takes as many starts as before
        await self._snapshots.prepare_image(
            name, base.runtime_image_id, base.shape, cause=BuildCause.DEMAND
        )


def _has_room(host: HostAgent) -> bool:
    try:
        host.storage.check_room()
    except DiskFull:
        return False
    return True

"""Runtime snapshots, as the API offers them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.build_snapshot import BuildSnapshot
from warmboot.manager.collect_snapshots import SnapshotCollector
from warmboot.manager.event_log import EventLog
from warmboot.manager.tasks import Tasks
from warmboot.model.errors import (
    Conflict,
    IllegalTransition,
    NotFound,
    NotSupported,
    WarmbootError,
)
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.store import Store

log = structlog.get_logger(__name__)


class RuntimeSnapshots:
    """Implements ``ports.RuntimeSnapshots``."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        tasks: Tasks,
        build: BuildSnapshot,
        collector: SnapshotCollector,
        *,
        default_shape: Shape,
        max_active: int,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._tasks = tasks
        self._build = build
        self._collector = collector
        self._default_shape = default_shape
        self._max_active = max_active
        self._beginning = asyncio.Lock()

    async def list(self, *, include_deleted: bool = False) -> Sequence[RuntimeSnapshot]:
        return await self._store.snapshots.list(include_deleted=include_deleted)

    async def get(self, snapshot_id: UUID) -> RuntimeSnapshot:
        return await self._store.snapshots.get(snapshot_id)

    async def create(self, runtime_image_id: UUID, shape: Shape | None) -> UUID:
        async with self._beginning:
            await self._check_capacity()
            return await self._begin(runtime_image_id, shape or self._default_shape, None)

    async def rebuild(self, snapshot_id: UUID) -> UUID:
        """The old one serves until its successor is ready; one rebuild at a time."""
        async with self._beginning:
            return await self._rebuild(snapshot_id)

    async def _rebuild(self, snapshot_id: UUID) -> UUID:
        old = await self._store.snapshots.get(snapshot_id)
        if old.state in (SnapshotState.CREATING, SnapshotState.DELETED):
            raise IllegalTransition(
                f"the runtime snapshot {snapshot_id} is {old.state}: it cannot be rebuilt",
                resolution="`warmboot snapshot create` builds a new one",
            )
        for other in await self._store.snapshots.for_image(old.runtime_image_id):
            if other.replaces == snapshot_id and other.state is SnapshotState.CREATING:
                raise Conflict(
                    f"the runtime snapshot {snapshot_id} is being rebuilt already",
                    details=f"its successor is {other.id}",
                )
        return await self._begin(old.runtime_image_id, old.shape, snapshot_id)

    def rebuild_unhealthy(self, snapshot_id: UUID) -> None:
        """Rebuild in the background what has become unhealthy."""

        async def work() -> None:
            try:
                await self.rebuild(snapshot_id)
            except (Conflict, NotFound):  # somebody was faster
                return
            except WarmbootError as error:
                log.error(f"Runtime snapshot {snapshot_id} could not be rebuilt: {error.brief}")

        self._tasks.start(f"rebuild {snapshot_id}", work())

    async def delete(self, snapshot_id: UUID) -> None:
        snapshot = await self._store.snapshots.get(snapshot_id)
        if snapshot.state is SnapshotState.DELETED:
            raise NotFound(f"there is no runtime snapshot {snapshot_id} (it was deleted)")
        await self._store.snapshots.set_state(snapshot_id, SnapshotState.DELETED)
        await self._tasks.cancel(_key(snapshot_id))
        await self._events.emit("runtime-snapshot.deleted", snapshot_id)
        await self._collector.collect_released()

    def resume(self, snapshot_id: UUID) -> None:
        """Build (again) a snapshot that is in ``creating``."""

        async def work() -> None:
            await self._build(snapshot_id)
            await self._collector.collect_released()

        self._tasks.start(_key(snapshot_id), work())

    async def _begin(self, image_id: UUID, shape: Shape, replaces: UUID | None) -> UUID:
        self._host.check_room()
        probe = await self._host.probe()
        if not probe.capabilities.snapshots or not probe.usable:
            raise NotSupported(
                "this host cannot build snapshots",
                details="; ".join(problem.brief for problem in probe.problems),
                resolution="see `warmboot doctor`",
            )
        snapshot_id = uuid4()
        await self._store.snapshots.add(
            RuntimeSnapshot(
                id=snapshot_id,
                runtime_image_id=image_id,
                snapshot_path=self._host.files.path(image_id, snapshot_id),
                state=SnapshotState.CREATING,
                hypervisor=probe.host.hypervisor,
                fc_version=probe.host.hypervisor_version,
                shape=shape,
                created_at=datetime.now(UTC),
                replaces=replaces,
            )
        )
        await self._events.emit("runtime-snapshot.creating", snapshot_id, replaces=replaces)
        self.resume(snapshot_id)
        return snapshot_id

    async def _check_capacity(self) -> None:
        active = await self._store.snapshots.list()
        if len(active) >= self._max_active:
            raise Conflict(
                f"there are {len(active)} runtime snapshots already",
                details=f"MANAGER_MAX_RUNTIME_SNAPSHOTS is {self._max_active}",
                resolution="delete one (`warmboot snapshot rm`), or raise the limit",
            )


def _key(snapshot_id: UUID) -> str:
    return f"build {snapshot_id}"

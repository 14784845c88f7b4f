"""Lists of the fakes, part by part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar
from uuid import UUID

from tests.support.fake_containers import FakeContainers
from tests.support.fake_engines import FakeEngines
from tests.support.fake_snapshots import FakeImages, FakeSnapshots
from tests.support.fake_workers import FakeWorkers

from warmboot.model.checkpoint import Checkpoint, CheckpointState
from warmboot.model.container import Container, ContainerState
from warmboot.model.conventions.pages import Page, PageRequest, Position
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.tenants.engine import Engine, EngineState
from warmboot.model.worker import Worker, WorkerState

T = TypeVar("T", bound=Any)


def _any(_: object) -> bool:
    return True


class FakePages:
    def __init__(
        self,
        images: FakeImages,
        snapshots: FakeSnapshots,
        containers: FakeContainers,
        engines: FakeEngines,
        workers: FakeWorkers,
    ) -> None:
        self._images, self._snapshots = images, snapshots
        self._containers, self._engines, self._workers = containers, engines, workers

    async def containers(
        self,
        wanted: PageRequest,
        states: Collection[ContainerState] | None = None,
        keep: Callable[[Container], bool] = _any,
    ) -> Page[Container]:
        return _page(filter(keep, self._containers.rows.values()), wanted, states)

    async def engines(
        self,
        wanted: PageRequest,
        states: Collection[EngineState] | None = None,
        keep: Callable[[Engine], bool] = _any,
    ) -> Page[Engine]:
        return _page(filter(keep, self._engines.rows.values()), wanted, states)

    async def workers(
        self,
        wanted: PageRequest,
        states: Collection[WorkerState] | None = None,
        keep: Callable[[Worker], bool] = _any,
    ) -> Page[Worker]:
        return _page(filter(keep, self._workers.rows.values()), wanted, states)

    async def images(
        self, wanted: PageRequest, keep: Callable[[RuntimeImage], bool] = _any
    ) -> Page[RuntimeImage]:
        found = filter(keep, self._images.rows.values())
        return _page(found, wanted, newest_first=False)

    async def snapshots(
        self,
        wanted: PageRequest,
        states: Collection[SnapshotState] | None = None,
        image_id: UUID | None = None,
    ) -> Page[RuntimeSnapshot]:
        rows = self._snapshots.rows.values()
        found = [one for one in rows if image_id in (None, one.runtime_image_id)]
        return _page(found, wanted, states)

    async def checkpoints(
        self,
        worker_id: UUID,
        wanted: PageRequest,
        states: Collection[CheckpointState] | None = None,
    ) -> Page[Checkpoint]:
        return _page(self._workers.kept[worker_id], wanted, states)


def _key(thing: Any) -> tuple[Any, UUID]:
    return thing.created_at, thing.id


def _page(
    things: Iterable[T],
    wanted: PageRequest,
    states: Collection[Any] | None = None,
    *,
    newest_first: bool = True,
) -> Page[T]:
    found = [one for one in things if states is None or one.state in states]
    found.sort(key=_key, reverse=newest_first)
    if wanted.after is not None:
        place = wanted.after.created_at, wanted.after.id
        found = [one for one in found if (_key(one) < place if newest_first else _key(one) > place)]
    part = tuple(found[: wanted.limit])
    more = len(part) < len(found)
    return Page(part, Position(*_key(part[-1])) if more else None)

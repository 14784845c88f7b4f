"""Which images are prepared because they are often started, and that no start has trouble by it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from warmboot.manager.core.tasks import Tasks
from warmboot.manager.snapshots.shape_demand import DemandPolicy
from warmboot.manager.snapshots.watch_demand import WatchImages
from warmboot.model.errors import NotFound
from warmboot.model.runtime_snapshot import (
    IMAGE,
    BuildCause,
    Depth,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.shapes import Shape

VERSION = RuntimeSnapshot(
    id=UUID(int=1),
    runtime_image_id=UUID(int=2),
    snapshot_path=Path("/nowhere"),
    state=SnapshotState.READY,
    hypervisor="qemu",
    fc_version="1",
    shape=Shape(1, 512),
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


class Scene:
    """Implements what is asked of the store, the host and the snapshots."""

    def __init__(self) -> None:
        self.snapshots, self.storage = self, self
        self.rows = {VERSION.id: VERSION}
        self.asked = 0
        self.trouble: Exception | None = None
        self.tasks, parts = Tasks(), self._as_any()
        self.images = WatchImages(parts, parts, self.tasks, parts, DemandPolicy(3, 3600), 8)

    def _as_any(self) -> Any:
        return self

    async def starts(self, count: int) -> None:
        for _ in range(count):
            self.images.started("redis", VERSION.id)
        await self.tasks.ended("demand for redis:latest")

    async def get(self, snapshot_id: UUID) -> RuntimeSnapshot:
        if snapshot_id not in self.rows:
            raise NotFound("there is none")
        return self.rows[snapshot_id]

    async def list(self) -> Sequence[RuntimeSnapshot]:
        return tuple(self.rows.values())

    async def with_image(self, _: UUID, name: str) -> Sequence[RuntimeSnapshot]:
        return [row for row in self.rows.values() if row.image == name]

    def check_room(self) -> None: ...

    async def prepare_image(
        self, name: str, image_id: UUID, shape: Shape, *, cause: BuildCause
    ) -> UUID:
        self.asked += 1
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise self.trouble
        made = replace(VERSION, id=uuid4(), depth=Depth.IMAGE, metadata={IMAGE: name})
        self.rows[made.id] = made
        return made.id


async def test_a_burst_of_starts_prepares_an_image_once() -> None:
    scene = Scene()
    await scene.starts(2)
    assert scene.asked == 0
    await scene.starts(50)
    assert scene.asked == 1
    assert [row.image for row in scene.rows.values()] == [None, "redis:latest"]


async def test_one_that_went_again_is_not_prepared_by_the_next_start() -> None:
    """As it was removed, or is over the budget by itself."""
    scene = Scene()
    await scene.starts(3)
    scene.rows = {VERSION.id: VERSION}
    await scene.starts(2)
    assert scene.asked == 1
    await scene.starts(1)
    assert scene.asked == 2


async def test_what_goes_wrong_is_not_the_containers_and_not_tried_at_each_start() -> None:
    scene = Scene()
    scene.trouble = OSError(5, "Input/output error")
    await scene.starts(5)
    assert scene.asked == 1
    scene.rows.clear()
    await scene.starts(1)
    assert scene.asked == 1


async def test_a_start_does_not_wait_for_it_and_its_end_does_not_end_it() -> None:
    scene = Scene()

    async def start() -> None:
        for _ in range(3):
            scene.images.started("redis", VERSION.id)
        await asyncio.Event().wait()

    starting = asyncio.create_task(start())
    await asyncio.sleep(0)
    assert scene.asked == 0
    starting.cancel()
    await scene.tasks.ended("demand for redis:latest")
    assert scene.asked == 1

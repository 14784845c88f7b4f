"""What a pause and a resume have in common: after a failure the worker is settled, and told of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.support.absent import ABSENT
from tests.support.databases import new_store
from typing_extensions import override

from warmboot.manager.core.event_log import EventLog
from warmboot.manager.workers.reconcile_workers import ReconcileWorkers
from warmboot.manager.workers.recover_worker import BUSY, RecoverWorker
from warmboot.manager.workers.worker_work import WorkerWork
from warmboot.model.checkpoint import Checkpoint, CheckpointState, Versions
from warmboot.model.errors import CheckpointError, EngineUnavailable
from warmboot.model.worker import Worker, WorkerSpec, WorkerState
from warmboot.store import Store


class Settle(RecoverWorker):
    """Notes who is to be settled; ``settles_to`` is what the engine says is true."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, ABSENT, ABSENT, ABSENT, ABSENT)
        self.settles_to: WorkerState | None = None
        self.error: Exception | None = None
        self.at_once: list[UUID] = []
        self.put_off: list[UUID] = []

    @override
    async def __call__(
        self, worker_id: UUID, only: Collection[WorkerState] = tuple(WorkerState)
    ) -> None:
        self.at_once.append(worker_id)
        if self.error is not None:
            raise self.error
        if self.settles_to is not None:
            await self._store.workers.set_state(worker_id, self.settles_to)

    @override
    def later(self, worker_id: UUID) -> None:
        self.put_off.append(worker_id)


class Scene:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.settle = Settle(store)
        self.work = WorkerWork(store, EventLog(store), self.settle, "pause", WorkerState.PAUSING)
        now = datetime.now(UTC)
        spec = WorkerSpec("w1", "app:1")
        self.worker = Worker(id=uuid4(), spec=spec, state=WorkerState.PAUSING, created_at=now)
        self.checkpoint = Checkpoint(
            id=uuid4(),
            worker_id=self.worker.id,
            name="before",
            state=CheckpointState.CREATING,
            created_at=now,
            versions=Versions("", "", "", ""),
            image_digest="",
        )

    async def fail(self) -> None:
        with pytest.raises(CheckpointError):
            async with self.work(self.worker, self.checkpoint):
                raise CheckpointError("it could not be dumped")

    async def failures(self) -> list[object]:
        events = await self.store.events.since(0)
        return [event.data["checkpoint"] for event in events if event.kind == "worker.pause-failed"]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with new_store(tmp_path) as store:
        made = Scene(store)
        await store.workers.add(made.worker)
        yield made


async def test_what_went_well_is_neither_settled_nor_told(scene: Scene) -> None:
    async with scene.work(scene.worker, scene.checkpoint):
        pass
    assert scene.settle.at_once == scene.settle.put_off == []
    assert await scene.failures() == []


async def test_a_failure_settles_first_and_is_told_with_its_cause(scene: Scene) -> None:
    scene.settle.settles_to = WorkerState.RUNNING
    await scene.fail()
    assert scene.settle.at_once == [scene.worker.id]
    assert scene.settle.put_off == []
    now = await scene.store.workers.get(scene.worker.id)
    assert now.state is WorkerState.RUNNING
    assert now.error is not None
    assert await scene.failures() == ["before"]


async def test_a_worker_that_is_still_under_way_is_settled_later(scene: Scene) -> None:
    await scene.fail()
    assert scene.settle.put_off == [scene.worker.id]


async def test_a_worker_that_cannot_be_settled_is_later_and_its_failure_told(
    scene: Scene,
) -> None:
    scene.settle.error = EngineUnavailable("the engine is away")
    await scene.fail()
    assert scene.settle.put_off == [scene.worker.id]
    assert await scene.failures() == ["before"]


async def test_a_mistake_of_ours_settles_it_too(scene: Scene) -> None:
    with pytest.raises(KeyError):
        async with scene.work(scene.worker, scene.checkpoint):
            raise KeyError("slot")
    assert scene.settle.at_once == [scene.worker.id]
    assert await scene.failures() == []


async def test_a_worker_that_was_removed_meanwhile_is_not_told_of(scene: Scene) -> None:
    await scene.store.workers.remove(scene.worker.id)
    await scene.fail()
    assert await scene.failures() == []
    assert scene.settle.put_off == []


@pytest.mark.parametrize("state", BUSY)
async def test_what_a_dead_manager_began_waits_for_the_engine(
    scene: Scene, state: WorkerState
) -> None:
    worker = replace(scene.worker, state=state)
    reconcile = ReconcileWorkers(ABSENT, ABSENT, scene.settle, ABSENT, ABSENT, ABSENT)
    await reconcile._worker(worker)
    assert scene.settle.at_once == []
    assert scene.settle.put_off == [scene.worker.id]


async def test_who_only_looks_does_not_settle_what_somebody_works_on(scene: Scene) -> None:
    recover = RecoverWorker(scene.store, ABSENT, ABSENT, ABSENT, ABSENT)
    await recover(scene.worker.id, only={WorkerState.PAUSED})  # asks nobody: it is pausing
    assert (await scene.store.workers.get(scene.worker.id)).state is WorkerState.PAUSING

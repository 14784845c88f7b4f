"""Creating a worker: whatever fails or is cut short, no container stays that nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.databases import new_store
from typing_extensions import override

from warmboot.criu.runtime.places import CheckpointPlaces
from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import EngineFacts
from warmboot.docker.pull import Progress, PullTimeout, no_progress
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.workers.create_worker import CreateWorker
from warmboot.manager.workers.recover_worker import LABEL, RecoverWorker
from warmboot.manager.workers.worker_states import WorkerStates
from warmboot.model.errors import ContainerError, EngineUnavailable, ImageNotFound
from warmboot.model.worker import Worker, WorkerSpec, WorkerState
from warmboot.store import Store

STEPS = ("digest", "pull", "create", "start")


class Engine(DockerEngine):
    """Has containers by id, and their labels. ``fails`` is the call that does, once it has done
    its work; ``hangs`` the one that does not return."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent/docker.sock"))
        self.containers: dict[str, dict[str, str]] = {}
        self.images: set[str] = set()
        self.runtimes: dict[str, dict[str, str]] = {}
        self.created_with: list[str] = []
        self.fails = ""
        self.hangs = ""
        self.goes_at = ""
        self.is_away = False
        self.hanging = asyncio.Event()

    async def _called(self, name: str) -> None:
        if name == self.hangs:
            self.hanging.set()
            await asyncio.Event().wait()
        if name == self.fails:
            raise ContainerError(f"{name} failed")
        self.is_away |= name == self.goes_at
        if self.is_away:
            raise EngineUnavailable("the engine is away")

    @override
    async def image_digest(self, reference: str) -> str:
        await self._called("digest")
        if reference not in self.images:
            raise ImageNotFound(f"there is no {reference}")
        return "sha256:1"

    @override
    async def pull(
        self,
        reference: str,
        progress: Progress = no_progress,
        timeout: PullTimeout = PullTimeout(),  # noqa: B008 - it is frozen
        platform: str = "",
    ) -> None:
        self.images.add(reference)
        await self._called("pull")

    @override
    async def facts(self) -> EngineFacts:
        return EngineFacts.of({"Version": "20.10.24"}, {"Runtimes": self.runtimes})

    @override
    async def create_worker(
        self, spec: WorkerSpec, *, extra_environment: Mapping[str, str], runtime: str = ""
    ) -> str:
        docker_id = uuid4().hex
        self.created_with.append(runtime)
        self.containers[docker_id] = dict(spec.labels)
        await self._called("create")
        return docker_id

    @override
    async def start(self, container: str) -> None:
        await self._called("start")

    @override
    async def labelled(self, label: str) -> list[str]:
        await self._called("labelled")
        key, _, value = label.partition("=")
        return [one for one, labels in self.containers.items() if labels.get(key) == value]

    @override
    async def remove(self, container: str) -> None:
        await self._called("remove")
        self.containers.pop(container, None)


class Scene:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.engine = Engine()
        states = WorkerStates(store, EventLog(store))
        self.create = CreateWorker(store, self.engine, states, lambda _: {})
        self.settle = RecoverWorker(
            store, self.engine, states, Tasks(), CheckpointPlaces(Path("/nonexistent"), "")
        )
        spec = WorkerSpec("w1", "app:1")
        now = datetime.now(UTC)
        self.worker = Worker(id=uuid4(), spec=spec, state=WorkerState.CREATING, created_at=now)

    async def now(self) -> Worker:
        return await self.store.workers.get(self.worker.id)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with new_store(tmp_path) as store:
        made = Scene(store)
        await store.workers.add(made.worker)
        yield made


async def test_it_runs_in_its_container(scene: Scene) -> None:
    await scene.create(scene.worker)
    now = await scene.now()
    assert (now.state, now.image_digest) == (WorkerState.RUNNING, "sha256:1")
    assert list(scene.engine.containers) == [now.docker_id]


@pytest.mark.parametrize("step", STEPS)
async def test_one_that_fails_says_why_and_leaves_no_container(scene: Scene, step: str) -> None:
    scene.engine.fails = step
    await scene.create(scene.worker)
    now = await scene.now()
    assert now.state is WorkerState.FAILED
    assert (now.error or {})["brief"] == f"{step} failed"
    assert scene.engine.containers == {}


@pytest.mark.parametrize("step", STEPS)
async def test_one_that_is_cancelled_leaves_no_container(scene: Scene, step: str) -> None:
    scene.engine.hangs = step
    task = asyncio.create_task(scene.create(scene.worker))
    await scene.engine.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scene.engine.containers == {}
    assert (await scene.now()).state is WorkerState.CREATING


async def test_the_container_of_a_manager_that_was_killed_is_not_there_twice(
    scene: Scene,
) -> None:
    scene.engine.containers["left"] = {LABEL: str(scene.worker.id)}
    scene.engine.containers["other"] = {LABEL: str(uuid4())}
    await scene.create(scene.worker)
    assert scene.engine.containers.keys() == {(await scene.now()).docker_id, "other"}


@pytest.mark.parametrize("how", ["the next start", "its removal"])
async def test_what_an_engine_that_is_away_keeps_goes_later(scene: Scene, how: str) -> None:
    scene.engine.goes_at = "start"
    await scene.create(scene.worker)
    assert (await scene.now()).state is WorkerState.FAILED
    assert len(scene.engine.containers) == 1
    scene.engine.goes_at, scene.engine.is_away = "", False
    if how == "its removal":
        await scene.store.workers.set_state(scene.worker.id, WorkerState.DELETING)
    await scene.settle(scene.worker.id)
    assert scene.engine.containers == {}

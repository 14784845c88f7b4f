"""A container's restart policy is taken off for a pause, and given back after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.support.databases import new_store
from tests.support.eventually import until
from typing_extensions import override

from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import ContainerFacts
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.workers.policies.restart_policies import RestartPolicies
from warmboot.model.errors import EngineUnavailable
from warmboot.model.worker import Worker, WorkerSpec, WorkerState
from warmboot.store import Store

ALWAYS = {"Name": "always", "MaximumRetryCount": 0}
NO = {"Name": "no"}


class Engine(DockerEngine):
    """Of one container; ``kept`` is what the store has of its policy at each change of it."""

    def __init__(self, store: Store) -> None:
        super().__init__(Path("/nowhere"))
        self.policy: Mapping[str, Any] = NO
        self.kept: list[object] = []
        self.away = 0
        self.late: list[Mapping[str, Any]] = []
        """What it was asked for while it hung, and does before what it is asked for next."""
        self._store = store

    @override
    async def inspect(self, container: str) -> ContainerFacts:
        host = {"NetworkMode": "host", "RestartPolicy": self.policy}
        state = {"Status": "running", "Running": True, "Pid": 1, "ExitCode": 0, "StartedAt": ""}
        config = {"Image": "app:1", "Tty": False}
        return ContainerFacts.of(
            {"Id": "c1", "Name": "w1", "Image": "", "State": state, "Config": config}
            | {"HostConfig": host}
        )

    @override
    async def set_restart_policy(self, container: str, policy: Mapping[str, Any]) -> None:
        if self.away > 0:
            self.away -= 1
            raise EngineUnavailable("it is away")
        (worker,) = await self._store.workers.list()
        self.kept.append(worker.restart_policy)
        self.policy = policy
        self.late.clear()  # it was done before


class Scene:
    def __init__(self, store: Store, tasks: Tasks) -> None:
        self.store, self.tasks = store, tasks
        self.engine = Engine(store)
        self.policies = RestartPolicies(store, self.engine, tasks)
        spec, now = WorkerSpec("w1", "app:1"), datetime.now(UTC)
        self.worker = Worker(uuid4(), spec, WorkerState.PAUSING, now, docker_id="c1")

    async def paused(self) -> None:
        await self.policies.take_off(self.worker, await self.engine.inspect("c1"))

    async def now(self, state: WorkerState) -> Worker:
        """As the followers are told of it."""
        worker = await self.store.workers.set_state(self.worker.id, state)
        await self.policies.follow(worker)
        return worker

    async def given_back(self) -> None:
        key = f"restart-policy {self.worker.id}"
        await until(lambda: not self.tasks.running(key), "it is given back")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    tasks = Tasks()
    async with new_store(tmp_path) as store:
        made = Scene(store, tasks)
        await store.workers.add(made.worker)
        yield made
        await tasks.stop()


async def test_it_is_kept_before_it_is_taken_off_and_forgotten_after_it_is_back(
    scene: Scene,
) -> None:
    scene.engine.policy = ALWAYS
    await scene.paused()
    assert (scene.engine.policy, scene.engine.kept) == (NO, [ALWAYS])
    assert (await scene.now(WorkerState.PAUSED)).restart_policy == ALWAYS
    await scene.now(WorkerState.RESUMING)
    await scene.given_back()
    assert scene.engine.policy == NO
    await scene.now(WorkerState.RUNNING)
    await scene.given_back()
    assert scene.engine.kept == [ALWAYS, ALWAYS]
    assert scene.engine.policy == ALWAYS
    assert (await scene.store.workers.get(scene.worker.id)).restart_policy is None


async def test_a_container_without_one_is_left_alone(scene: Scene) -> None:
    await scene.paused()
    await scene.now(WorkerState.RUNNING)
    await scene.given_back()
    assert scene.engine.kept == []


async def test_an_engine_that_is_away_gets_it_when_it_is_back(scene: Scene) -> None:
    scene.engine.policy = ALWAYS
    await scene.paused()
    scene.engine.away = 1
    await scene.now(WorkerState.EXITED)
    await scene.given_back()
    assert scene.engine.policy == ALWAYS


async def test_an_engine_that_takes_it_off_late_has_it_afterwards(scene: Scene) -> None:
    scene.engine.policy, scene.engine.away = ALWAYS, 1
    with pytest.raises(EngineUnavailable):
        await scene.paused()
    scene.engine.late = [NO]
    await scene.now(WorkerState.RUNNING)
    await scene.given_back()
    assert [scene.engine.policy, *scene.engine.late][-1] == ALWAYS
    assert (await scene.store.workers.get(scene.worker.id)).restart_policy is None


async def test_what_somebody_has_set_during_the_pause_stays(scene: Scene) -> None:
    scene.engine.policy = ALWAYS
    await scene.paused()
    theirs = {"Name": "unless-stopped", "MaximumRetryCount": 0}
    scene.engine.policy = theirs
    await scene.now(WorkerState.RUNNING)
    await scene.given_back()
    assert scene.engine.policy == theirs
    assert (await scene.store.workers.get(scene.worker.id)).restart_policy is None


async def test_a_pause_that_comes_before_it_is_back_keeps_it(scene: Scene) -> None:
    scene.engine.policy = ALWAYS
    await scene.paused()
    kept = await scene.store.workers.get(scene.worker.id)
    scene.engine.policy = ALWAYS  # it has just been given back, and is not forgotten yet
    await scene.policies.take_off(kept, await scene.engine.inspect("c1"))
    assert scene.engine.policy == NO
    assert (await scene.store.workers.get(scene.worker.id)).restart_policy == ALWAYS

"""A worker that has ended, and whose container somebody else has started."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.support.databases import new_store
from typing_extensions import override

from warmboot.criu.runtime.places import CheckpointPlaces
from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import ContainerFacts
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.workers.recover_worker import RecoverWorker
from warmboot.manager.workers.worker_states import WorkerStates
from warmboot.model.errors import DiskFull
from warmboot.model.worker import Worker, WorkerSpec, WorkerState


class Engine(DockerEngine):
    """Of one container, which runs."""

    ended = 0
    """So often it is found to have ended with 3 before."""

    @override
    async def inspect(self, container: str) -> ContainerFacts:
        state = {"Status": "running", "Running": True, "Pid": 0, "ExitCode": 0, "StartedAt": ""}
        if self.ended:
            self.ended -= 1
            state |= {"Status": "exited", "Running": False, "ExitCode": 3}
        return ContainerFacts.of(
            {"Id": "c1", "Name": "w1", "Image": "", "State": state}
            | {"Config": {"Image": "app:1", "Tty": False}, "HostConfig": {"NetworkMode": "host"}}
        )


class States(WorkerStates):
    """The store fails once, when it is to keep that the worker runs."""

    fails = True

    @override
    async def record(
        self,
        worker_id: UUID,
        state: WorkerState,
        *,
        told: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Worker:
        if state is WorkerState.RUNNING and self.fails:
            self.fails = False
            raise DiskFull("the disk is full")
        return await super().record(worker_id, state, told=told, **changes)


async def test_it_runs_or_is_as_it_was_and_nobody_ends_it(tmp_path: Path) -> None:
    async with new_store(tmp_path) as store:
        events = EventLog(store)
        states, places = States(store, events), CheckpointPlaces(tmp_path, "")
        recover = RecoverWorker(store, Engine(tmp_path), states, Tasks(), places)
        spec, now = WorkerSpec("w1", "app:1"), datetime.now(UTC)
        worker = Worker(uuid4(), spec, WorkerState.EXITED, now, docker_id="c1", exit_code=3)
        await store.workers.add(worker)
        with pytest.raises(DiskFull):
            await recover(worker.id)
        assert (await store.workers.get(worker.id)).state is WorkerState.EXITED
        await recover(worker.id)
        found = await store.workers.get(worker.id)
        assert (found.state, found.exit_code) == (WorkerState.RUNNING, None)
        kinds = [event.kind for event in await store.events.since(0)]
        assert kinds == ["worker.resuming", "worker.running"]


async def test_one_that_is_started_before_its_end_is_stored_runs(tmp_path: Path) -> None:
    async with new_store(tmp_path) as store:
        events = EventLog(store)
        states, places = WorkerStates(store, events), CheckpointPlaces(tmp_path, "")
        engine = Engine(tmp_path)
        engine.ended = 1
        recover = RecoverWorker(store, engine, states, Tasks(), places)
        spec, now = WorkerSpec("w1", "app:1"), datetime.now(UTC)
        worker = Worker(uuid4(), spec, WorkerState.RUNNING, now, docker_id="c1")
        await store.workers.add(worker)
        await recover(worker.id)
        found = await store.workers.get(worker.id)
        assert (found.state, found.exit_code) == (WorkerState.RUNNING, None)
        kinds = [event.kind for event in await store.events.since(0)]
        assert kinds == ["worker.exited", "worker.resuming", "worker.running"]

"""The manager is killed at each step of a pause, checkpoint, resume, export and import.

The next one finds the truth: the worker runs on or is paused, with its memory, and nothing of the
work that was broken off is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.eventually import eventually, until
from tests.support.ports import free_port
from tests.support.served import served, served_by_process, worker_settings
from tests.workers.conftest import (
    counted,
    dockerd_with_runtime,
    goes_on,
    remove_all,
    start_on,
)
from tests.workers.doomed_manager import Order

from warmboot.client import Client
from warmboot.client.worker_results import Worker
from warmboot.criu import in_progress
from warmboot.criu.runtime.orders import ROOT, images_to_resume
from warmboot.criu.runtime_work import runtimes_at_work
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import WarmbootError
from warmboot.settings import Settings
from warmboot.system.concurrency import end

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow]

Doomed = Callable[..., AbstractAsyncContextManager[tuple[Client, list[asyncio.Task[Any]]]]]

TIMEOUT_S = 120.0
RESTARTS = {"Name": "on-failure", "MaximumRetryCount": 3}
"""A policy by which the engine would start again what a dump has ended."""

RUNTIME, MANAGER = "warmboot.criu.runtime", "warmboot.manager.workers"
DUMP = [
    (f"{RUNTIME}.folders:CheckpointFolder.begin", "after"),
    (f"{RUNTIME}.dump:unless_it_hangs", "midway"),
    (f"{RUNTIME}.dump:unless_it_hangs", "after"),
    (f"{RUNTIME}.folders:make_sums", "after"),
    (f"{RUNTIME}.folders:CheckpointFolder.publish", "after"),
    (f"{MANAGER}.pause_worker:PauseWorker._record", "before"),
]
BOTH = (DUMP[1], DUMP[3])
"""What a checkpoint that leaves the worker running does otherwise than a pause."""

RESUME = [
    (f"{MANAGER}.resume_worker:restore", "before"),
    (f"{RUNTIME}.resume:unless_it_hangs", "before"),
    (f"{RUNTIME}.resume:unless_it_hangs", "midway"),
    (f"{RUNTIME}.resume:unless_it_hangs", "after"),
    (f"{MANAGER}.resume_worker:ResumeWorker._record", "before"),
]

ARCHIVES = "warmboot.criu.archives"
EXPORT = (f"{ARCHIVES}.packing:_add_layer", "after")
"""It writes nothing, so one step is as another."""

IMPORT = [
    (f"{ARCHIVES}.archive:_lay", "after"),
    (f"{ARCHIVES}.archive:unpack_archive", "after"),
    (f"{RUNTIME}.folders:make_sums", "after"),
    (f"{RUNTIME}.places:give_order", "after"),
    (f"{MANAGER}.worker_states:WorkerStates.record", "after"),
]
RECORDED = (f"{MANAGER}.worker_states:WorkerStates.announce", "before")


@pytest.fixture(scope="module")
async def dockerd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrivateDockerd]:
    async with dockerd_with_runtime(tmp_path_factory.mktemp("runtime")) as running:
        yield running


@pytest.fixture
def settings(dockerd: PrivateDockerd, tmp_path: Path) -> Settings:
    return worker_settings(tmp_path / "s", dockerd.socket, free_port())


@dataclass
class Fork:
    """A fork of ``doomed_manager``, whose end that tells."""

    pid: int
    told: asyncio.StreamReader
    code: int | None = None

    def kill(self) -> None:
        if self.code is not None:
            raise ProcessLookupError
        os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        if self.code is None:
            self.code = int(await self.told.readline())
        return self.code


@pytest.fixture(scope="module")
async def forking() -> AsyncIterator[asyncio.subprocess.Process]:
    """The process that forks managers which are to die."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.workers.doomed_manager"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    yield process
    process.stdin.close()
    await asyncio.wait_for(process.wait(), TIMEOUT_S)


@pytest.fixture
def doomed(settings: Settings, forking: asyncio.subprocess.Process) -> Doomed:
    """``warmboot serve`` as a process that kills itself; on leaving that is awaited.

    With a list for what it is asked for and never answers.
    """
    orders, told = forking.stdin, forking.stdout
    assert orders is not None
    assert told is not None

    @contextlib.asynccontextmanager
    async def serving(*doom: str) -> AsyncIterator[tuple[Client, list[asyncio.Task[Any]]]]:
        async def begin(environment: dict[str, str]) -> Fork:
            orders.write(Order(environment, doom).to_json().encode() + b"\n")
            return Fork(int(await told.readline()), told)

        asked: list[asyncio.Task[Any]] = []
        async with served_by_process(settings, begin) as (client, process):
            yield client, asked
            async with asyncio.timeout(TIMEOUT_S):
                assert await process.wait() == -signal.SIGKILL, "it has killed itself"
            await end(*asked)

    return serving


async def the_next_finds_the_truth(
    settings: Settings,
    engine: DockerEngine,
    worker_id: str,
    secret: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(in_progress, "QUIET_S", 0.5)
    async with served(settings) as it:
        settled = await it.client.workers.wait(worker_id, "settled", TIMEOUT_S)
        docker_id = settled.docker_id or ""
        assert settled.state in ("running", "paused"), settled.error
        found = await engine.inspect(docker_id)
        assert found.running == (settled.state == "running")
        assert runtimes_at_work(docker_id) == []
        rows = await it.client.workers.checkpoints(worker_id)
        assert all(one.state == "ready" for one in rows)
        await it.client.workers.wake(worker_id)
        await goes_on(it.client, worker_id, secret)
        await it.client.workers.pause(worker_id)
        await it.client.workers.resume(worker_id)
        await goes_on(it.client, worker_id, secret)
        rows = await it.client.workers.checkpoints(worker_id)
        folder = settings.checkpoint_folders / worker_id
        kept = {one.name for one in folder.iterdir()} - {".restore"}
        assert {name for name in kept if name.endswith((".making", ".gone"))} == set()
        assert {name for name in kept if not name.startswith(".")} == {one.name for one in rows}

        async def has_its_policy() -> bool:
            return (await engine.inspect(docker_id)).restart_policy == RESTARTS

        await eventually(has_its_policy, "its restart policy is given back", TIMEOUT_S)
        layer = (await engine.inspect(docker_id)).upper_folder
        assert layer is not None
        assert [one for one in layer.parent.iterdir() if "warmboot" in one.name] == []
        await remove_all(it.client)
    # The runtime removes its folder when the engine has it delete the container.
    await until(lambda: not (ROOT / docker_id).exists(), "nothing of it is left")


@pytest.mark.parametrize(
    ("what", "point", "when"),
    [*(("pause", *at) for at in DUMP), *(("checkpoint", *at) for at in DUMP if at in BOTH)],
)
async def test_a_dump_ends_in_the_truth(
    settings: Settings,
    doomed: Doomed,
    engine: DockerEngine,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    point: str,
    when: str,
) -> None:
    async with doomed(point, when) as (client, asked):
        worker = await start_on(client, engine)
        await engine.set_restart_policy(worker.docker_id or "", RESTARTS)
        secret, _ = await counted(client, worker.id, beyond=2)
        workers = client.workers
        act = workers.pause if what == "pause" else workers.create_checkpoint
        asked.append(asyncio.create_task(act(worker.id, "first")))
    await the_next_finds_the_truth(settings, engine, worker.id, secret, monkeypatch)


@pytest.mark.parametrize(("point", "when"), RESUME)
async def test_a_resume_ends_in_the_truth(
    settings: Settings,
    doomed: Doomed,
    engine: DockerEngine,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    when: str,
) -> None:
    async with doomed(point, when) as (client, asked):
        worker = await start_on(client, engine)
        await engine.set_restart_policy(worker.docker_id or "", RESTARTS)
        secret, _ = await counted(client, worker.id, beyond=2)
        await client.workers.pause(worker.id)
        asked.append(asyncio.create_task(client.workers.resume(worker.id)))
    await the_next_finds_the_truth(settings, engine, worker.id, secret, monkeypatch)


async def nothing_came_in(settings: Settings, engine: DockerEngine, fresh: Worker) -> None:
    docker_id = fresh.docker_id or ""
    layer = (await engine.inspect(docker_id)).upper_folder
    assert layer is not None
    layers, place = layer.parent, settings.checkpoint_folders / fresh.id
    assert [one.name for one in layers.iterdir() if "warmboot" in one.name] == []
    assert list(layer.iterdir()) == []
    assert {one.name for one in place.glob("*")} <= {".store-id"}
    assert images_to_resume(docker_id) is None


async def test_an_export_and_an_import_that_are_broken_off_leave_nothing(
    settings: Settings, doomed: Doomed, engine: DockerEngine, tmp_path: Path
) -> None:
    """Each manager finds what the last one has left, and is killed at the next step."""
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    archive = arrived / "left.tar.zst"
    async with doomed(*EXPORT) as (client, _):
        worker = await start_on(client, engine)
        secret, _ = await counted(client, worker.id, beyond=2)
        await client.workers.pause(worker.id, "left")
        kept = sorted(settings.checkpoint_folders.rglob("*"))
        with pytest.raises(WarmbootError):
            await client.workers.export_checkpoint(worker.id, "left", archive)
    assert list(arrived.iterdir()) == []
    assert sorted(settings.checkpoint_folders.rglob("*")) == kept
    fresh: Worker | None = None
    for point, when in IMPORT:
        async with doomed(point, when) as (client, _):
            if fresh is None:
                await client.workers.export_checkpoint(worker.id, "left", archive)
                fresh = await start_on(client, engine, start=False)
            await client.workers.wait(fresh.id, "settled", TIMEOUT_S)
            assert await client.workers.checkpoints(fresh.id) == []
            await nothing_came_in(settings, engine, fresh)
            with pytest.raises(WarmbootError):
                await client.workers.import_checkpoint(fresh.id, archive, "arrived")
    assert fresh is not None
    async with doomed(*RECORDED) as (client, _):
        await nothing_came_in(settings, engine, fresh)
        with pytest.raises(WarmbootError):
            await client.workers.import_checkpoint(fresh.id, archive, "arrived")
    async with served(settings) as it:
        again = await it.client.workers.import_checkpoint(fresh.id, archive, "arrived")
        assert [one.id for one in await it.client.workers.checkpoints(fresh.id)] == [again.id]
        await it.client.workers.resume(fresh.id)
        assert (await counted(it.client, fresh.id))[0] == secret
        await it.client.workers.resume(worker.id)
        await goes_on(it.client, worker.id, secret)
        await remove_all(it.client)
    await until(lambda: not (ROOT / (fresh.docker_id or "")).exists(), "nothing of it is left")

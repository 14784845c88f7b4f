"""An engine that hangs, is killed, or went down with its machine: workers outlive it.

With ``live-restore``, so that an engine that comes back finds its containers as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.served import Served, served, worker_settings
from tests.workers.conftest import (
    counted,
    dockerd_with_runtime,
    event_kinds,
    goes_on,
    last_count,
    lines,
    nth_line,
    parsed,
    remove_all,
    start_on,
)

from warmboot.client import Client
from warmboot.client.worker_results import Worker
from warmboot.criu import in_progress
from warmboot.criu.archives import archive as archiving
from warmboot.criu.archives import packing
from warmboot.criu.in_progress import Limits, Work
from warmboot.criu.runtime import dump as dumping
from warmboot.criu.runtime import resume as resuming
from warmboot.criu.runtime.orders import ROOT
from warmboot.criu.runtime_work import runtimes_at_work
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import Conflict, WarmbootError
from warmboot.settings import Settings

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow]

LIMIT_S = 4.0
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
async def dockerd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrivateDockerd]:
    folder = tmp_path_factory.mktemp("runtime")
    async with dockerd_with_runtime(folder, **{"live-restore": True}) as running:
        yield running


@pytest.fixture(autouse=True)
def quiet_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_progress, "QUIET_S", 0.5)


@pytest.fixture
def settings(dockerd: PrivateDockerd, tmp_path: Path) -> Settings:
    return worker_settings(
        tmp_path / "s", dockerd.socket, free_port(), worker_pause_timeout_s=LIMIT_S
    )


@pytest.fixture
async def it(settings: Settings) -> AsyncIterator[Served]:
    async with served(settings) as running:
        yield running
        await remove_all(running.client)


async def test_a_pause_of_which_the_engine_knows_nothing_ends_and_the_worker_runs_on(
    dockerd: PrivateDockerd, client: Client, engine: DockerEngine, tmp_path: Path
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id)
    with dockerd.hanging():
        for act in (client.workers.pause, client.workers.create_checkpoint):
            with pytest.raises(WarmbootError, match="does not answer") as caught:
                await act(worker.id)
            assert f"within {LIMIT_S:g} s" in caught.value.details
            assert (await client.workers.get(worker.id)).state == "running"
    assert await client.workers.checkpoints(worker.id) == []
    assert not list((tmp_path / "s" / "checkpoints" / worker.id).glob(".*making"))
    await goes_on(client, worker.id, secret)
    await client.workers.pause(worker.id)
    await client.workers.resume(worker.id)
    await goes_on(client, worker.id, secret)


async def test_an_engine_that_hangs_does_not_keep_a_dump_from_its_end(
    dockerd: PrivateDockerd, client: Client, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id)
    unless_it_hangs = in_progress.unless_it_hangs

    async def hanging(work: Work, call: Coroutine[Any, Any, None], limits: Limits) -> None:
        dockerd.hang()
        await unless_it_hangs(work, call, limits)

    monkeypatch.setattr(dumping, "unless_it_hangs", hanging)
    try:
        assert (await client.workers.pause(worker.id)).state == "paused"
    finally:
        dockerd.go_on()
    await client.workers.resume(worker.id)
    await goes_on(client, worker.id, secret)


async def test_a_resume_of_which_the_engine_knows_nothing_ends_and_the_worker_is_paused(
    dockerd: PrivateDockerd, client: Client, engine: DockerEngine
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id)
    await client.workers.pause(worker.id)
    with dockerd.hanging():
        with pytest.raises(WarmbootError, match="does not answer"):
            await client.workers.resume(worker.id)
        assert (await client.workers.get(worker.id)).state == "paused"
    await client.workers.resume(worker.id)
    await goes_on(client, worker.id, secret)


async def test_a_resume_that_the_engine_carries_out_when_it_goes_on_is_noticed(
    dockerd: PrivateDockerd, client: Client, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id)
    await client.workers.pause(worker.id)
    unless_it_hangs = in_progress.unless_it_hangs

    async def hanging(work: Work, call: Coroutine[Any, Any, None], limits: Limits) -> None:
        dockerd.hang()
        await unless_it_hangs(work, call, limits)

    monkeypatch.setattr(in_progress, "ANSWER_AFTER_END_S", 0.5)
    monkeypatch.setattr(resuming, "unless_it_hangs", hanging)
    try:
        with pytest.raises(WarmbootError, match="does not answer"):
            await client.workers.resume(worker.id)
        assert (await client.workers.get(worker.id)).state == "paused"
    finally:
        dockerd.go_on()
    assert (await client.workers.wait(worker.id, "running", TIMEOUT_S)).state == "running"
    await goes_on(client, worker.id, secret)


STEPS = [
    *(("dockerd", what, step) for what in ("pause", "resume") for step in ("before", "after")),
    *(("dockerd", what, "at work") for what in ("pause", "checkpoint", "resume")),
    *(("containerd", what, "at work") for what in ("pause", "resume")),
]
"""Those of containerd take long, as dockerd starts another one only after a while."""


@pytest.mark.parametrize(("victim", "what", "step"), STEPS)
async def test_a_worker_outlives_an_engine_that_is_killed_at_work_on_it(
    dockerd: PrivateDockerd,
    client: Client,
    engine: DockerEngine,
    monkeypatch: pytest.MonkeyPatch,
    victim: str,
    what: str,
    step: str,
) -> None:
    worker = await start_on(client, engine)
    docker_id = worker.docker_id or ""
    secret, seen = await counted(client, worker.id)
    if what == "resume":
        await client.workers.pause(worker.id)
    kill = {"dockerd": dockerd.kill, "containerd": dockerd.kill_containerd}[victim]
    unless_it_hangs = in_progress.unless_it_hangs
    module = resuming if what == "resume" else dumping

    async def killed(work: Work, call: Coroutine[Any, Any, None], limits: Limits) -> None:
        monkeypatch.setattr(module, "unless_it_hangs", unless_it_hangs)  # once
        if step == "before":
            await kill()
        begun = asyncio.ensure_future(unless_it_hangs(work, call, limits))
        if step == "at work":
            while not runtimes_at_work(docker_id) and not begun.done():  # noqa: ASYNC110
                await asyncio.sleep(0.001)  # a program of dockerd's begins, and tells nobody
            await kill()
        await begun
        if step == "after":
            await kill()

    acts: dict[str, Callable[[str], Awaitable[object]]] = {
        "pause": client.workers.pause,
        "checkpoint": client.workers.create_checkpoint,
        "resume": client.workers.resume,
    }
    monkeypatch.setattr(module, "unless_it_hangs", killed)
    await asyncio.gather(acts[what](worker.id), return_exceptions=True)  # whatever it was told
    if victim == "dockerd":  # which takes its containerd with it
        await dockerd.start()
    settled = await client.workers.wait(worker.id, "settled", TIMEOUT_S)
    assert settled.state in ("running", "paused"), settled.error
    await eventually_wakes(client, worker)
    _, now = await last_count(client, worker.id)
    assert now >= seen
    assert (await counted(client, worker.id, beyond=now))[0] == secret
    assert runtimes_at_work(docker_id) == []
    assert [one.state for one in await client.workers.checkpoints(worker.id)] in ([], ["ready"])


async def test_an_export_and_an_import_are_whole_though_the_engine_is_killed_at_each(
    dockerd: PrivateDockerd,
    client: Client,
    engine: DockerEngine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id)
    await client.workers.pause(worker.id, "left")
    _, before = await last_count(client, worker.id)
    fresh = await start_on(client, engine, start=False)
    loop, killed = asyncio.get_running_loop(), []

    def kill_before(module: ModuleType, name: str) -> None:
        step = getattr(module, name)

        def then(*arguments: Any) -> Any:  # in a thread of the archive's own
            asyncio.run_coroutine_threadsafe(dockerd.kill(), loop).result(TIMEOUT_S)
            killed.append(name)
            return step(*arguments)

        monkeypatch.setattr(module, name, then)

    archive = tmp_path / "left.tar.zst"
    kill_before(packing, "_add_layer")
    await client.workers.export_checkpoint(worker.id, "left", archive)
    await dockerd.start()
    kill_before(archiving, "_lay")
    await client.workers.import_checkpoint(fresh.id, archive, "arrived")
    await dockerd.start()
    assert killed == ["_add_layer", "_lay"]
    await client.workers.resume(fresh.id)
    found, now = await counted(client, fresh.id)
    assert found == secret
    assert now > before


async def eventually_wakes(client: Client, worker: Worker) -> None:
    """A containerd that was killed is there again after a while."""

    async def woken() -> bool:
        with contextlib.suppress(WarmbootError):
            await client.workers.wake(worker.id)
            return True
        return False

    await eventually(woken, "it is woken", TIMEOUT_S)


async def test_workers_outlive_a_power_failure_of_the_machine(
    dockerd: PrivateDockerd, engine: DockerEngine, settings: Settings
) -> None:
    async with served(settings) as it:
        paused, ran = await start_on(it.client, engine), await start_on(it.client, engine)
        secret, _ = await counted(it.client, paused.id, beyond=2)
        other, _ = await counted(it.client, ran.id, beyond=2)
        await it.client.workers.pause(paused.id)
        _, before = await last_count(it.client, paused.id)
        await it.client.workers.create_checkpoint(ran.id, "kept")
    await dockerd.power_off()
    await dockerd.start()
    async with served(settings) as it:
        assert (await it.client.workers.get(paused.id)).state == "paused"
        assert (await it.client.workers.resume(paused.id)).state == "running"
        assert await counted(it.client, paused.id, beyond=before) == (secret, before + 1)
        assert (await it.client.workers.wait(ran.id, "settled", TIMEOUT_S)).state == "exited"
        seen = len(await lines(it.client, ran.id))
        assert (await it.client.workers.resume(ran.id, "kept")).state == "running"
        assert parsed(await nth_line(it.client, ran.id, seen))[0] == other
        await remove_all(it.client)


@pytest.mark.parametrize("noticed", ["at once", "at the manager's start"])
async def test_a_paused_worker_whose_container_was_removed_by_hand_has_failed_and_says_why(
    engine: DockerEngine, settings: Settings, noticed: str
) -> None:
    async with served(settings) as it:
        worker = await start_on(it.client, engine)
        await counted(it.client, worker.id)
        await it.client.workers.pause(worker.id)
        if noticed == "at once":
            await engine.remove(worker.docker_id or "")
            assert (await it.client.workers.wait(worker.id, "running", TIMEOUT_S)).state == "failed"
    if noticed != "at once":
        await engine.remove(worker.docker_id or "")
    async with served(settings) as it:
        now = await it.client.workers.get(worker.id)
        assert now.state == "failed"
        assert "is gone" in str(now.error)
        assert (await event_kinds(it.client, worker.id)).count("worker.failed") == 1
        with pytest.raises(Conflict, match="is gone"):
            await it.client.workers.resume(worker.id)
        assert (await it.client.workers.get(worker.id)).state == "failed"
        await it.client.workers.delete(worker.id)
    assert list(settings.checkpoint_folders.iterdir()) == []
    assert not (ROOT / (worker.docker_id or "")).exists()

"""The manager is killed in the middle of a pause or a resume; the next one finds the truth."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.served import served, served_by_process, worker_settings
from tests.workers.conftest import counted, remove_all, start_on, wait_for_line

from warmboot.client import Client
from warmboot.docker.engine import DockerEngine
from warmboot.settings import Settings

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow]


@contextlib.asynccontextmanager
async def killed_at_the_end(settings: Settings) -> AsyncIterator[Client]:
    """``warmboot serve`` as a process, ended by SIGKILL."""
    async with served_by_process(settings) as (client, _):
        yield client


@pytest.mark.parametrize("after_s", [0.02, 0.1, 0.25])
@pytest.mark.parametrize("what", ["pause", "resume"])
async def test_what_was_under_way_is_settled(
    dockerd: PrivateDockerd, engine: DockerEngine, tmp_path: Path, what: str, after_s: float
) -> None:
    settings = worker_settings(tmp_path / "s", dockerd.socket, free_port())
    async with killed_at_the_end(settings) as client:
        worker = await start_on(client, engine)
        secret, _ = await counted(client, worker.id, beyond=2)
        if what == "resume":
            await client.workers.pause(worker.id)
        act = client.workers.pause if what == "pause" else client.workers.resume
        task = asyncio.create_task(act(worker.id))
        await asyncio.sleep(after_s)
    await asyncio.gather(task, return_exceptions=True)  # whatever it was told, if anything
    async with served(settings) as it:
        settled = await it.client.workers.wait(worker.id, "settled", 60)
        assert settled.state in ("running", "paused"), settled.error
        rows = await it.client.workers.checkpoints(worker.id)
        assert all(one.state == "ready" for one in rows)
        assert sorted(await engine.checkpoints(worker.docker_id or "")) == sorted(
            one.name for one in rows
        )
        await it.client.workers.wake(worker.id)
        assert (await counted(it.client, worker.id))[0] == secret
        await it.client.workers.pause(worker.id)
        await it.client.workers.resume(worker.id)
        await remove_all(it.client)


async def test_a_dump_that_outlives_the_manager_is_not_lost(
    dockerd: PrivateDockerd, engine: DockerEngine, tmp_path: Path
) -> None:
    """The engine is still dumping when the next manager is there already."""
    settings = worker_settings(tmp_path / "s", dockerd.socket, free_port())
    script = (
        "( head -c 134217728 /dev/urandom; echo end >&2; while sleep 1; do :; done ) | "
        "dd of=/dev/null bs=134217728 iflag=fullblock"
    )
    async with killed_at_the_end(settings) as client:
        worker = await start_on(client, engine, script, name="large")
        await wait_for_line(client, worker.id, lambda line: line == "end")
        pid = (await engine.inspect(worker.docker_id or "")).pid
        task = asyncio.create_task(client.workers.pause(worker.id, "large"))

        async def pausing() -> bool:
            return (await client.workers.get(worker.id)).state == "pausing"

        await eventually(pausing, "its pause begins")
        await asyncio.sleep(0.1)  # it may be dumped by now, or not
    await asyncio.gather(task, return_exceptions=True)
    async with served(settings) as it:
        settled = await it.client.workers.wait(worker.id, "settled", 60)
        if settled.state == "running":  # the dump had not begun
            assert (await engine.inspect(worker.docker_id or "")).pid == pid
        else:
            assert settled.state == "paused"
            assert (await it.client.workers.resume(worker.id)).state == "running"
        await remove_all(it.client)

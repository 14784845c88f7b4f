"""A pause that hangs keeps nobody waiting for ever: it has a limit, and `rm -f` needs none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.dockerd import CRIU_WRAPPER, PrivateDockerd
from tests.support.eventually import until
from tests.support.ports import free_port
from tests.support.served import served, worker_settings
from tests.workers.conftest import counted, event_kinds, remove_all, start_on

from warmboot.client import Client
from warmboot.criu.runtime_work import runtimes_at_work
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import CheckpointTimeout, WarmbootError

pytestmark = [pytest.mark.docker, pytest.mark.root]

HANGING_CRIU = '#!/bin/sh\n[ "$1" = swrk ] && exec sleep 1000\nexec {} "$@"\n'


@pytest.fixture
async def hanging(dockerd: PrivateDockerd, tmp_path: Path) -> AsyncIterator[PrivateDockerd]:
    """The engine, with a CRIU that never gets anywhere."""
    criu = tmp_path / "bin" / "criu"
    criu.parent.mkdir()
    criu.write_text(HANGING_CRIU.format(CRIU_WRAPPER))
    criu.chmod(0o755)
    await dockerd.stop()
    dockerd.criu_wrapper = criu
    await dockerd.start()
    yield dockerd
    await dockerd.stop()
    dockerd.criu_wrapper = CRIU_WRAPPER
    await dockerd.start()


async def test_a_pause_that_hangs_ends_at_its_limit_and_the_worker_runs_on(
    hanging: PrivateDockerd, tmp_path: Path
) -> None:
    settings = worker_settings(
        tmp_path / "s", hanging.socket, free_port(), worker_pause_timeout_s=1.0
    )
    async with served(settings) as it, DockerEngine(hanging.socket) as engine:
        worker = await start_on(it.client, engine)
        secret, seen = await counted(it.client, worker.id)
        with pytest.raises(WarmbootError, match="keeps running") as caught:
            await it.client.workers.pause(worker.id)
        assert "nothing of it had moved for 1 s" in caught.value.details
        assert (await it.client.workers.get(worker.id)).state == "running"
        assert (await counted(it.client, worker.id, beyond=seen))[0] == secret
        assert (await event_kinds(it.client, worker.id))[-2:] == [
            "worker.running",
            "worker.pause-failed",
        ]
        await remove_all(it.client)


async def test_what_hangs_in_pausing_is_removed_by_force_at_once(
    hanging: PrivateDockerd, tmp_path: Path
) -> None:
    settings = worker_settings(tmp_path / "s", hanging.socket, free_port())
    async with served(settings) as it, DockerEngine(hanging.socket) as engine:
        worker = await start_on(it.client, engine)
        pause = asyncio.create_task(_pause(it.client, worker.id))
        async with asyncio.timeout(60):  # far less than the pause's own limit
            await until(lambda: bool(runtimes_at_work(worker.docker_id or "")))
            await it.client.workers.delete(worker.id, force=True)
            await pause
        assert await it.client.workers.list() == []
        assert runtimes_at_work(worker.docker_id or "") == []
        assert await engine.labelled(f"dev.warmboot.worker={worker.id}") == []


BUSY_CRIU = """\
#!/bin/sh
if [ "$1" = swrk ] && [ -e {busy} ]; then
    while :; do echo more; sleep 0.05; done > /dev/null
fi
exec {criu} "$@"
"""


async def test_a_request_s_own_limit_ends_a_pause_and_a_resume_that_make_progress(
    runtime_dockerd: PrivateDockerd, tmp_path: Path
) -> None:
    busy, criu = tmp_path / "busy", tmp_path / "bin" / "criu"
    criu.parent.mkdir()
    criu.write_text(BUSY_CRIU.format(busy=busy, criu=CRIU_WRAPPER))
    criu.chmod(0o755)
    settings = worker_settings(tmp_path / "s", runtime_dockerd.socket, free_port())
    settings = settings.model_copy(update={"criu_wrapper": criu})
    async with served(settings) as it, DockerEngine(runtime_dockerd.socket) as engine:
        workers = it.client.workers
        worker = await start_on(it.client, engine)
        secret, seen = await counted(it.client, worker.id)
        busy.touch()
        for late in (
            workers.pause(worker.id, timeout_s=1.0),
            workers.create_checkpoint(worker.id, timeout_s=1.0),
        ):
            with pytest.raises(CheckpointTimeout, match="keeps running") as caught:
                await late
            assert "not done within the 1 s that the request allows" in caught.value.details
            now = await workers.get(worker.id)
            assert (now.state, (now.error or {})["code"]) == ("running", "checkpoint-timeout")
            assert await workers.checkpoints(worker.id) == []
            found, seen = await counted(it.client, worker.id, beyond=seen)
            assert found == secret
        busy.unlink()
        await workers.pause(worker.id, "kept", timeout_s=60)
        busy.touch()
        with pytest.raises(CheckpointTimeout, match="checkpoint is kept"):
            await workers.resume(worker.id, timeout_s=1.0)
        assert (await workers.get(worker.id)).state == "paused"
        busy.unlink()
        await workers.resume(worker.id, timeout_s=60)
        assert (await counted(it.client, worker.id, beyond=seen))[0] == secret
        await remove_all(it.client)


async def _pause(client: Client, worker_id: str) -> None:
    with pytest.raises(WarmbootError):
        await client.workers.pause(worker_id)

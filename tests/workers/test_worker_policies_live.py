"""What happens to a worker without being asked: idleness, periods, shutdown, connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support.dockerd import PrivateDockerd, private_dockerd
from tests.support.eventually import eventually
from tests.support.images import http_image
from tests.support.ports import free_port
from tests.support.served import Served, served, worker_settings
from tests.workers.conftest import (
    Start,
    counted,
    event_kinds,
    remove_all,
    start_on,
)

from warmboot.client import Client
from warmboot.client.worker_results import Checkpoint
from warmboot.docker.engine import DockerEngine

pytestmark = [pytest.mark.docker, pytest.mark.root]

SLEEPER = "echo ready; while true; do sleep 1000; done"
BUSY = "echo ready; while true; do :; done"


async def test_an_idle_worker_is_paused(client: Client, start: Start) -> None:
    worker = await start(script=SLEEPER, policy={"pause_after_idle_s": 1})
    assert (await client.workers.wait(worker.id, "paused", 60)).state == "paused"
    await client.workers.resume(worker.id)
    began = time.monotonic()
    assert (await client.workers.wait(worker.id, "paused", 60)).state == "paused"
    assert time.monotonic() - began > 0.9


async def test_a_busy_worker_is_not_paused(client: Client, start: Start) -> None:
    worker = await start(script=BUSY, policy={"pause_after_idle_s": 1})
    assert (await client.workers.wait(worker.id, "paused", 3)).state == "running"


async def test_a_worker_that_reports_is_not_idle(client: Client, start: Start) -> None:
    worker = await start(script=SLEEPER, policy={"pause_after_idle_s": 4})
    for number in range(12):
        await client.workers.report(worker.id, "progress", {"done": number})
        await asyncio.sleep(0.5)  # all in all longer than it may be idle
    assert (await client.workers.get(worker.id)).state == "running"
    assert (await client.workers.wait(worker.id, "paused", 60)).state == "paused"


async def test_checkpoints_are_made_regularly_and_the_newest_are_kept(
    client: Client, start: Start, dockerd: PrivateDockerd
) -> None:
    worker = await start(policy={"checkpoint_every_s": 1, "keep_checkpoints": 2})
    await client.workers.create_checkpoint(worker.id, "by-hand")
    made: set[str] = set()

    async def four() -> bool:
        made.update(one.name for one in await client.workers.checkpoints(worker.id))
        return len(made) >= 4

    async def three() -> list[Checkpoint] | None:
        kept = await client.workers.checkpoints(worker.id)
        ready = len(kept) == 3 and all(one.state == "ready" for one in kept)
        return kept if ready else None

    await eventually(four, "four checkpoints were made")
    kept = await eventually(three, "three of them are kept")
    assert sum(one.automatic for one in kept) == 2
    assert "by-hand" in {one.name for one in kept}
    await counted(client, worker.id, beyond=5)


async def test_shutdown_pauses_and_the_next_start_resumes(
    dockerd: PrivateDockerd, engine: DockerEngine, tmp_path: Path
) -> None:
    settings = worker_settings(tmp_path / "s", dockerd.socket, free_port())
    async with served(settings) as it:
        asked = await start_on(it.client, engine, name="asked", policy={"pause_at_shutdown": True})
        other = await start_on(it.client, engine, name="other")
        by_hand = await start_on(
            it.client, engine, name="by-hand", policy={"pause_at_shutdown": True}
        )
        secret, _ = await counted(it.client, asked.id, beyond=2)
        await it.client.workers.pause(by_hand.id)
    assert not (await engine.inspect(asked.docker_id or "")).running
    assert (await engine.inspect(other.docker_id or "")).running
    async with served(settings) as it:
        assert (await it.client.workers.wait(asked.id, "running", 60)).state == "running"
        assert (await counted(it.client, asked.id))[0] == secret
        assert (await it.client.workers.get(other.id)).state == "running"
        assert (await it.client.workers.get(by_hand.id)).state == "paused"
        await remove_all(it.client)


async def test_shutdown_waits_for_a_checkpoint_that_is_being_made(
    dockerd: PrivateDockerd, engine: DockerEngine, tmp_path: Path
) -> None:
    settings = worker_settings(tmp_path / "s", dockerd.socket, free_port())
    async with served(settings) as it:
        worker = await start_on(it.client, engine, policy={"pause_at_shutdown": True})
        secret, _ = await counted(it.client, worker.id, beyond=2)
        making = asyncio.create_task(it.client.workers.create_checkpoint(worker.id, "cp"))

        async def begun() -> bool:
            return (await it.client.workers.get(worker.id)).state == "checkpointing"

        await eventually(begun, "the checkpoint is begun")
    await asyncio.gather(making, return_exceptions=True)  # whatever it was told, if anything
    assert not (await engine.inspect(worker.docker_id or "")).running
    async with served(settings) as it:
        assert (await it.client.workers.wait(worker.id, "running", 60)).state == "running"
        assert (await counted(it.client, worker.id))[0] == secret
        # From now on it was paused by hand, whatever was before.
        await it.client.workers.pause(worker.id)
    async with served(settings) as it:
        assert (await it.client.workers.wait(worker.id, "running", 1)).state == "paused"
        await remove_all(it.client)


@pytest.mark.slow
async def test_an_engine_that_starts_after_the_manager_is_waited_for(tmp_path: Path) -> None:
    async with private_dockerd() as late:
        settings = worker_settings(tmp_path / "s", late.socket, free_port())
        async with served(settings) as it, DockerEngine(late.socket) as engine:
            script = "while true; do sleep 1; done"
            worker = await start_on(it.client, engine, script, policy={"pause_at_shutdown": True})
        await late.stop()
        async with served(settings) as it:
            # It is being tried already, and what came of that is told by the engine only.
            assert (await it.client.workers.get(worker.id)).state in ("paused", "resuming")
            await late.start()
            assert (await it.client.workers.wait(worker.id, "running", 90)).state == "running"
            await remove_all(it.client)


async def test_what_ended_while_no_manager_ran_is_noticed(
    dockerd: PrivateDockerd, engine: DockerEngine, tmp_path: Path
) -> None:
    settings = worker_settings(tmp_path / "s", dockerd.socket, free_port())
    async with served(settings) as it:
        ends = await start_on(it.client, engine, name="ends")
        gone = await start_on(it.client, engine, name="gone")
    await engine.kill(ends.docker_id or "")
    await engine.remove(gone.docker_id or "")
    async with served(settings) as it:
        assert (await it.client.workers.get(ends.id)).state == "exited"
        failed = await it.client.workers.get(gone.id)
        assert failed.state == "failed"
        assert "gone" in (failed.error or {})["brief"]
        await remove_all(it.client)


async def _get(port: int) -> bytes:
    """One plain HTTP request, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /here HTTP/1.0\r\n\r\n")
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _http_worker(it: Served, engine: DockerEngine, port: int, **policy: Any) -> str:
    image = f"warmboot-test/http-{port}:1"
    await engine.load_image(http_image(image, port))
    worker = await start_on(
        it.client,
        engine,
        image=image,
        command=["sh", "-c", f"echo hello > /here; exec httpd -f -p 127.0.0.1:{port} -h /"],
        policy={"wake_on": [port], **policy},
    )

    async def answers() -> bool:
        with contextlib.suppress(OSError):
            return b"hello" in await _get(port)
        return False

    await eventually(answers, "it serves")
    return worker.id


async def test_a_connection_wakes_a_paused_worker_and_is_answered(
    it: Served, engine: DockerEngine
) -> None:
    port = free_port()
    worker_id = await _http_worker(it, engine, port)
    for _ in range(2):
        await it.client.workers.pause(worker_id)
        answers = await asyncio.gather(*(_get(port) for _ in range(5)))
        assert all(answer.endswith(b"hello\n") for answer in answers)
        assert (await it.client.workers.get(worker_id)).state == "running"
    assert (await event_kinds(it.client, worker_id)).count("worker.resuming") == 2


async def test_twenty_connections_at_once_are_all_answered(
    it: Served, engine: DockerEngine
) -> None:
    port = free_port()
    worker_id = await _http_worker(it, engine, port)
    await it.client.workers.pause(worker_id)
    answers = await asyncio.gather(*(_get(port) for _ in range(20)))
    assert all(answer.endswith(b"hello\n") for answer in answers)
    assert (await event_kinds(it.client, worker_id)).count("worker.resuming") == 1


async def test_a_worker_is_not_idle_while_somebody_has_a_connection_to_it(
    it: Served, engine: DockerEngine
) -> None:
    port = free_port()
    worker_id = await _http_worker(it, engine, port, pause_after_idle_s=5)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    await it.client.workers.wait(worker_id, "running", 60)  # it may have been idle before
    assert (await it.client.workers.wait(worker_id, "paused", 8)).state == "running"
    writer.transport.abort()
    assert (await it.client.workers.wait(worker_id, "paused", 60)).state == "paused"


async def test_connections_that_come_during_the_restore_are_answered_too(
    it: Served, engine: DockerEngine
) -> None:
    port = free_port()
    worker_id = await _http_worker(it, engine, port)
    await it.client.workers.pause(worker_id)

    async def late(after_s: float) -> bytes:
        await asyncio.sleep(after_s)
        return await _get(port)

    answers = await asyncio.gather(*(late(0.01 * number) for number in range(80)))
    assert all(answer.endswith(b"hello\n") for answer in answers)


async def test_a_resume_by_hand_takes_the_port_back(it: Served, engine: DockerEngine) -> None:
    port = free_port()
    worker_id = await _http_worker(it, engine, port)
    await it.client.workers.pause(worker_id)
    await it.client.workers.resume(worker_id)
    assert (await _get(port)).endswith(b"hello\n")
    await it.client.workers.delete(worker_id, force=True)
    with pytest.raises(ConnectionRefusedError):
        await _get(port)


async def test_a_paused_worker_is_woken_after_a_restart_of_the_manager(
    dockerd: PrivateDockerd, engine: DockerEngine, tmp_path: Path
) -> None:
    settings = worker_settings(tmp_path / "s", dockerd.socket, free_port())
    port = free_port()
    async with served(settings) as it:
        worker_id = await _http_worker(it, engine, port)
        await it.client.workers.pause(worker_id)
    with pytest.raises(ConnectionRefusedError):
        await _get(port)
    async with served(settings) as it:
        assert (await _get(port)).endswith(b"hello\n")
        await remove_all(it.client)


async def test_a_connection_wakes_a_worker_that_came_as_an_archive(
    it: Served, engine: DockerEngine, tmp_path: Path
) -> None:
    port = free_port()
    worker = await it.client.workers.get(await _http_worker(it, engine, port))
    await it.client.workers.pause(worker.id, "leaving")
    archive = tmp_path / "leaving.tar.zst"
    await it.client.workers.export_checkpoint(worker.id, "leaving", archive)
    await it.client.workers.delete(worker.id)
    moved = await it.client.workers.create(
        image=worker.image, name="moved", start=False, policy={"wake_on": [port]}
    )
    await it.client.workers.wait(moved, "settled", 60)
    await it.client.workers.import_checkpoint(moved, archive)
    assert (await _get(port)).endswith(b"hello\n")
    assert (await it.client.workers.get(moved)).state == "running"

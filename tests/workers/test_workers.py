"""Workers over the API: created, paused, resumed, looked at, removed. Real engine, real CRIU."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.served import Served
from tests.workers.conftest import (
    TIMEOUT_S,
    Start,
    counted,
    event_kinds,
    events_of,
    last_count,
    lines,
    nth_line,
    parsed,
)

from warmboot.client import Client
from warmboot.docker.engine import DockerEngine

pytestmark = [pytest.mark.docker, pytest.mark.root]


async def test_a_worker_runs_and_is_shown(client: Client, start: Start) -> None:
    worker = await start(labels={"team": "a"}, environment={"A": "b"})
    assert worker.state == "running"
    assert worker.raw["image_digest"].startswith("sha256:")
    assert [one.id for one in await client.workers.list()] == [worker.id]
    assert (await client.workers.get(worker.name)).raw == worker.raw
    assert (await client.workers.get(worker.id[:8])).id == worker.id
    assert worker.network == "host"


async def test_memory_survives_a_pause(client: Client, start: Start, engine: DockerEngine) -> None:
    worker = await start()
    secret, _ = await counted(client, worker.id, beyond=3)
    pid = (await engine.inspect(worker.docker_id or "")).pid
    paused = await client.workers.pause(worker.id)
    assert paused.state == "paused"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    _, before = await last_count(client, worker.id)
    resumed = await client.workers.resume(worker.id)
    assert resumed.state == "running"
    assert (resumed.paused_into, resumed.error) == (None, None)
    assert await counted(client, worker.id, beyond=before) == (secret, before + 1)
    assert await event_kinds(client, worker.id) == [
        "worker.creating",
        "worker.running",
        "worker.pausing",
        "worker.paused",
        "worker.resuming",
        "worker.running",
    ]


async def test_a_start_by_hand_begins_anew_without_the_runtime_and_is_told(
    client: Client, start: Start, engine: DockerEngine
) -> None:
    worker = await start()
    await counted(client, worker.id)
    await client.workers.pause(worker.id, "kept")
    seen = len(await lines(client, worker.id))
    await engine.start(worker.docker_id or "")
    assert (await client.workers.wait(worker.id, "running", TIMEOUT_S)).state == "running"
    told = (await events_of(client, worker.id, "worker.running"))[-1]
    assert (told["settled"], told["checkpoint"]) == (True, None)
    assert parsed(await nth_line(client, worker.id, seen))[1] == 1
    assert [one.name for one in await client.workers.checkpoints(worker.id)] == ["kept"]


async def test_a_checkpoint_is_shown_with_what_is_in_it(client: Client, start: Start) -> None:
    worker = await start()
    made = await client.workers.create_checkpoint(worker.id, "first")
    assert (await client.workers.get(worker.id)).state == "running"
    assert (made.name, made.state, made.left_running) == ("first", "ready", True)
    assert made.size_bytes > 10_000
    assert made.processes >= 1
    assert made.tcp_connections == 0
    assert made.duration_s > 0
    assert made.raw["versions"]["criu"] >= "4.2"
    assert [one.name for one in await client.workers.checkpoints(worker.id)] == ["first"]
    assert (await client.workers.checkpoint(worker.id, "first")).raw == made.raw


async def test_the_log_has_every_byte_as_it_was_also_after_a_pause(
    client: Client, start: Start
) -> None:
    line = bytes(byte for byte in range(256) if byte != ord("\n")) + b"\n"
    octal = "".join(f"\\{byte:03o}" for byte in line)
    worker = await start(script=f"while true; do printf '{octal}'; sleep 0.1; done")
    assert await _log(client, worker.id, 3 * len(line)) == line * 3
    await client.workers.pause(worker.id)
    paused = await _log(client, worker.id)
    await client.workers.resume(worker.id)
    more = len(paused) + 3 * len(line)
    assert await _log(client, worker.id, more) == line * (more // len(line))


async def _log(client: Client, ref: str, size_bytes: int = 0) -> bytes:
    """The first bytes of it, which are waited for; all that is there, if none."""
    written = b""
    async with asyncio.timeout(TIMEOUT_S):
        follow = size_bytes > 0
        async with contextlib.aclosing(client.workers.logs(ref, follow=follow)) as chunks:
            async for chunk in chunks:
                written += chunk
                if follow and len(written) >= size_bytes:
                    return written[:size_bytes]
    return written


async def test_a_named_checkpoint_is_resumed(client: Client, start: Start) -> None:
    worker = await start()
    await counted(client, worker.id, beyond=2)
    await client.workers.create_checkpoint(worker.id, "early")
    _, early = await last_count(client, worker.id)
    await counted(client, worker.id, beyond=early + 10)
    await client.workers.pause(worker.id, "late")
    seen = len(await lines(client, worker.id))
    await client.workers.resume(worker.id, "early")
    await counted(client, worker.id, beyond=early + 10)
    _, number = parsed(await nth_line(client, worker.id, seen))
    assert number <= early + 8


async def test_a_checkpoint_that_is_deleted_is_gone_from_the_disk(
    client: Client, start: Start, dockerd: PrivateDockerd
) -> None:
    worker = await start()
    await client.workers.create_checkpoint(worker.id, "gone")
    folder = dockerd.data_root / "containers" / (worker.docker_id or "") / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["gone"]
    await client.workers.delete_checkpoint(worker.id, "gone")
    assert list(folder.iterdir()) == []
    assert await client.workers.checkpoints(worker.id) == []


async def test_a_worker_whose_process_ends_has_exited(client: Client, start: Start) -> None:
    worker = await start(script="sleep 0.3; exit 7")
    ended = await client.workers.wait(worker.id, "exited", 60)
    assert (ended.state, ended.exit_code) == ("exited", 7)


async def test_a_worker_that_has_ended_is_resumed_from_a_checkpoint(
    client: Client, start: Start, engine: DockerEngine
) -> None:
    worker = await start()
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.create_checkpoint(worker.id)
    await engine.kill(worker.docker_id or "")
    assert (await client.workers.wait(worker.id, "exited", 60)).exit_code == 137
    assert (await client.workers.resume(worker.id)).state == "running"
    assert (await counted(client, worker.id))[0] == secret


async def test_what_is_removed_leaves_nothing(
    client: Client, start: Start, engine: DockerEngine, dockerd: PrivateDockerd
) -> None:
    worker = await start()
    await client.workers.pause(worker.id)
    await client.workers.delete(worker.id)
    assert await client.workers.list() == []
    assert await engine.labelled(f"dev.warmboot.worker={worker.id}") == []
    assert not (dockerd.data_root / "containers" / (worker.docker_id or "")).exists()


async def test_waking_is_resuming_and_nothing_else(client: Client, start: Start) -> None:
    worker = await start()
    await client.workers.pause(worker.id)
    woken = await asyncio.gather(*(client.workers.wake(worker.id) for _ in range(4)))
    assert {one.state for one in woken} == {"running"}
    kinds = await event_kinds(client, worker.id)
    assert kinds.count("worker.resuming") == 1
    assert (await client.workers.wake(worker.id)).state == "running"


async def test_a_worker_can_be_paused_again_and_again(it: Served, start: Start) -> None:
    worker = await start()
    secret, _ = await counted(it.client, worker.id, beyond=1)
    for _ in range(4):
        await it.client.workers.pause(worker.id)
        _, before = await last_count(it.client, worker.id)
        await it.client.workers.resume(worker.id)
        assert await counted(it.client, worker.id, beyond=before) == (secret, before + 1)
    kept = await it.client.workers.checkpoints(worker.id)
    assert len(kept) <= 4


async def test_dumps_in_quick_succession_do_not_lose_the_worker(
    client: Client, start: Start
) -> None:
    """containerd refuses a dump, its process already ended, while the one before is kept."""
    worker = await start()
    secret, _ = await counted(client, worker.id, beyond=1)
    for number in range(4):
        await client.workers.create_checkpoint(worker.id, f"quick-{number}")
    await client.workers.pause(worker.id)
    await client.workers.resume(worker.id)
    assert (await counted(client, worker.id))[0] == secret

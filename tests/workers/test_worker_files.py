"""A checkpoint is memory and files: an older one brings back both, and mounts stay as they are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.images import python_image
from tests.workers.conftest import (
    TIMEOUT_S,
    last_count,
    lines,
    nth_line,
    start_on,
    wait_for_line,
)

from warmboot.client import Client
from warmboot.client.worker_results import Worker
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import CheckpointRefused

pytestmark = [pytest.mark.docker, pytest.mark.root]

IMAGE = "warmboot-test/files:1"
PYTHON = "/usr/bin/python3"
KEEPS_COUNT = """
import itertools, os, sqlite3, time
database = sqlite3.connect("/database", isolation_level=None)
database.execute("pragma journal_mode = wal")
database.execute("create table counted (number integer)")
log = open("/log", "w")
fleeting = open("/dev/shm/counted", "w")
for number in itertools.count(1):
    database.execute("begin")
    database.execute("insert into counted values (?)", (number,))
    time.sleep(0.02)
    database.execute("commit")
    print(number, file=log, flush=True)
    print(number, file=fleeting, flush=True)
    found = database.execute("select count(*), max(number) from counted").fetchone()
    kept = [len(open(path).readlines()) for path in ("/log", "/dev/shm/counted")]
    same = {number} == {*found, *kept}
    print("whole" if same else f"torn:{found}:{kept}", number, flush=True)
    time.sleep(0.05)
"""
APPENDS = """
import time
log = open("/data/log", "a")
print("begins", file=log, flush=True)
print("ready 1", flush=True)
while True:
    time.sleep(0.1)
"""
CONNECTS = """
import socket, sys
for word in ("first", "second"):
    connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    connection.sendall(word.encode() + b"\\n")
    got = b"something"
    while got:
        try:
            got = connection.recv(100)
        except OSError:
            got = b""
        print(got.decode() or "closed", flush=True)
"""


@pytest.fixture(scope="module")
async def dockerd(runtime_dockerd: PrivateDockerd) -> PrivateDockerd:
    image = await asyncio.to_thread(python_image, IMAGE)
    async with DockerEngine(runtime_dockerd.socket) as engine:
        await engine.load_image(image)
    return runtime_dockerd


async def _keeps_count(client: Client, engine: DockerEngine) -> Worker:
    return await start_on(client, engine, image=IMAGE, command=[PYTHON, "-c", KEEPS_COUNT])


async def _beyond(client: Client, ref: str, number: int) -> None:
    await wait_for_line(client, ref, lambda line: int(line.rpartition(" ")[2]) > number)


async def test_after_a_crash_a_worker_goes_on_from_its_checkpoint_with_log_and_database(
    client: Client, engine: DockerEngine
) -> None:
    worker = await _keeps_count(client, engine)
    await _beyond(client, worker.id, 3)
    await client.workers.create_checkpoint(worker.id, "kept")
    at = (await last_count(client, worker.id))[1]
    await _beyond(client, worker.id, at + 10)
    await engine.kill(worker.docker_id or "")
    await client.workers.wait(worker.id, "exited", TIMEOUT_S)
    for _ in range(2):
        seen = len(await lines(client, worker.id))
        assert (await client.workers.resume(worker.id, "kept")).state == "running"
        word, _, number = (await nth_line(client, worker.id, seen + 5)).partition(" ")
        assert word == "whole"
        assert int(number) <= at + 8, "it has forgotten what came after the checkpoint"
        await client.workers.pause(worker.id)


async def test_with_files_as_they_are_what_does_not_fit_is_named_with_both_sizes(
    client: Client, engine: DockerEngine
) -> None:
    worker = await _keeps_count(client, engine)
    await _beyond(client, worker.id, 3)
    await client.workers.create_checkpoint(worker.id, "early")
    at = (await last_count(client, worker.id))[1]
    await _beyond(client, worker.id, at + 10)
    await client.workers.pause(worker.id, "late")
    with pytest.raises(CheckpointRefused) as caught:
        await client.workers.resume(worker.id, "early", keep_files=True)
    told = next(line for line in caught.value.details.splitlines() if line.startswith("/"))
    path, now, then = (told.split()[at] for at in (0, 2, -1))
    assert path in ("/log", "/database", "/database-wal", "/dev/shm/counted")
    assert int(now) > int(then)
    assert "--keep-files" in caught.value.resolution
    seen = len(await lines(client, worker.id))
    await client.workers.resume(worker.id, "late", keep_files=True)
    assert (await nth_line(client, worker.id, seen + 1)).startswith("whole")


async def test_a_file_in_a_mount_that_it_held_open_and_that_has_changed_is_told(
    client: Client, engine: DockerEngine, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    mounts = [{"source": str(tmp_path / "data"), "target": "/data"}]
    worker = await start_on(
        client, engine, image=IMAGE, command=[PYTHON, "-c", APPENDS], mounts=mounts
    )
    await wait_for_line(client, worker.id, lambda line: line == "ready 1")
    await client.workers.pause(worker.id)
    await client.workers.resume(worker.id)
    assert await _changed_files(client, worker.id) is None
    await client.workers.pause(worker.id)
    log = tmp_path / "data" / "log"
    log.write_text(log.read_text() + "somebody else was here\n")
    (told,) = (await client.workers.resume(worker.id)).changed_files
    assert await _changed_files(client, worker.id) == [told.raw]
    assert told.raw == {
        "path": "/data/log",
        "size_then_bytes": 7,
        "size_bytes": log.stat().st_size,
    }
    await client.workers.pause(worker.id)
    await client.workers.resume(worker.id)
    assert await _changed_files(client, worker.id) is None
    assert log.read_text().endswith("here\n"), "mounts stay as they are"


async def test_a_worker_can_be_resumed_with_its_connections_closed(
    client: Client, engine: DockerEngine
) -> None:
    heard = asyncio.Queue[tuple[bytes, asyncio.StreamWriter]]()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait((await reader.readline(), writer))

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
        port = str(server.sockets[0].getsockname()[1])
        command = [PYTHON, "-c", CONNECTS, port]
        worker = await start_on(client, engine, image=IMAGE, command=command)
        async with asyncio.timeout(3 * TIMEOUT_S):
            word, first = await heard.get()
            assert word == b"first\n"
            await client.workers.pause(worker.id)
            await client.workers.resume(worker.id, close_connections=True)
            await wait_for_line(client, worker.id, lambda line: line == "closed")
            word, second = await heard.get()
            assert word == b"second\n"
            await client.workers.pause(worker.id)
            await client.workers.resume(worker.id)
            second.write(b"kept\n")
            await wait_for_line(client, worker.id, lambda line: line == "kept")
        first.transport.abort()
        second.transport.abort()


async def _changed_files(client: Client, worker_id: str) -> Any:
    """As the last resume has told."""
    events = await client.events.list(0, 1000)
    running = [e for e in events if e.kind == "worker.running" and e.subject_id == worker_id]
    return running[-1].data.get("changed_files")

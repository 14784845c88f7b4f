"""Output is read from an engine only as fast as it is taken, and ends with whoever reads it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from starlette.types import ASGIApp
from tests.support.eventually import until
from tests.support.ports import free_port

from warmboot.api.streams import Streamed
from warmboot.docker.engine import DockerEngine
from warmboot.docker.pull import PullTimeout
from warmboot.model.conventions.multiplexed import Demultiplexer
from warmboot.model.errors import EngineUnavailable, RegistryUnavailable

LINE = b"a line of output that is not very long\n"
LINES = 200_000
HELD_BYTES = 4 << 20
"""More than all the buffers between an engine and a reader, and far less than what it has."""


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


class Engine:
    """As much of a Docker engine as logs need: ``LINES`` lines, each in a frame of its own."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.broken = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).decode().split()[1]
                if "/images/create" in asked:
                    await reader.read()  # whoever asks waits for a registry
                    break
                if "/logs" in asked:
                    await self._logs(writer)
                    break
                body = json.dumps(_DESCRIPTION if "/json" in asked else {"ApiVersion": "1.41"})
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body.encode())
                )
        self.broken.set()
        writer.close()

    async def _logs(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        many = frame(1, LINE) * 1000
        for _ in range(LINES // 1000):
            writer.write(many)
            await writer.drain()
            self.sent_bytes += len(many)


_DESCRIPTION = {
    "Id": "c1",
    "Name": "/c1",
    "Image": "sha256:1",
    "State": {"Status": "running", "Running": True, "Pid": 1, "ExitCode": 0, "StartedAt": ""},
    "Config": {"Image": "app:1", "Tty": False},
    "HostConfig": {"NetworkMode": "host", "AutoRemove": False},
}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[tuple[Engine, DockerEngine]]:
    fake = Engine()
    path = tmp_path / "docker.sock"
    async with await asyncio.start_unix_server(fake.answer, path), DockerEngine(path) as client:
        yield fake, client


async def test_an_engine_that_never_answers_is_told(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    path = tmp_path / "docker.sock"
    async with (
        await asyncio.start_unix_server(silent, path),
        DockerEngine(path, answer_timeout_s=0.1) as client,
        asyncio.timeout(60),
    ):
        with pytest.raises(EngineUnavailable, match="in time"):
            await client.facts()


async def test_a_registry_that_never_answers_is_told_as_the_registry(
    engine: tuple[Engine, DockerEngine],
) -> None:
    _, client = engine
    async with asyncio.timeout(60):
        with pytest.raises(RegistryUnavailable, match=r"for 0\.2 s"):
            await client.pull("registry.example/app:1", timeout=PullTimeout(0.2))


@pytest.mark.parametrize("follow", [False, True])
async def test_an_engine_is_read_only_as_fast_as_its_output_is_taken(
    engine: tuple[Engine, DockerEngine], follow: bool
) -> None:
    fake, client = engine
    lines = client.logs("c1", follow=follow)
    assert isinstance(lines, AsyncGenerator)
    assert await anext(lines) == LINE.decode()
    await lines.aclose()
    async with asyncio.timeout(60):
        await fake.broken.wait()
    assert fake.sent_bytes < HELD_BYTES < LINES * len(LINE)


async def test_all_of_it_comes_and_in_pieces_of_many_lines(
    engine: tuple[Engine, DockerEngine],
) -> None:
    _, client = engine
    pieces = [chunk.data async for chunk in client.output("c1")]
    assert b"".join(pieces) == LINE * LINES
    assert len(pieces) < LINES / 100, "a turn of the loop for every line would take for ever"


async def test_an_answer_ends_with_its_reader(caplog: pytest.LogCaptureFixture) -> None:
    """Even if what it is made of is all there already, so that nothing has to be waited for."""
    made, ended = 0, asyncio.Event()

    async def lines() -> AsyncIterator[bytes]:
        nonlocal made
        try:
            for _ in range(LINES):
                made += 1
                yield LINE
        finally:
            ended.set()

    async with _serving(Streamed(lines())) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1000)
        with caplog.at_level(logging.WARNING, logger="asyncio"):
            writer.transport.abort()
            async with asyncio.timeout(60):
                await ended.wait()
    assert made < LINES
    assert len([record for record in caplog.records if record.name == "asyncio"]) <= 1


@contextlib.asynccontextmanager
async def _serving(app: ASGIApp) -> AsyncIterator[int]:
    port = free_port()
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started)  # uvicorn has no event for it
        yield port
    finally:
        server.should_exit = True
        await asyncio.wait({task}, timeout=60)


def test_frames_are_taken_apart_wherever_they_are_cut() -> None:
    frames = [(1, b"one"), (1, b"two"), (2, b"three"), (1, b""), (2, b"four" * 100)]
    whole = b"".join(frame(*one) for one in frames)
    for size in (1, 3, 7, 8, 9, 50, len(whole)):
        taken = Demultiplexer()
        found: dict[int, bytes] = {1: b"", 2: b""}
        for at in range(0, len(whole), size):
            for stream, data in taken.feed(whole[at : at + size]):
                found[stream] += data
        assert found == {1: b"onetwo", 2: b"three" + b"four" * 100}, size


def test_neighbours_of_one_stream_are_one_piece() -> None:
    lines = frame(1, LINE) * 5 + frame(2, b"!")
    assert Demultiplexer().feed(lines) == [(1, LINE * 5), (2, b"!")]

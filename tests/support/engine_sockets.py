"""An engine's socket of the front over a fake guest, and clients there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h11
from tests.support.fake_dockerd import FakeGuest

from warmboot.engine_socket.port_keeper import Ask
from warmboot.engine_socket.served_engine import EngineSocket
from warmboot.model.conventions.engine_front import ServedEngine
from warmboot.model.tenants.host_folder import HostFolder

TIMEOUT_S = 60.0
PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"
UPGRADE = (
    b"POST /upgrade HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    b"Content-Length: 0\r\n\r\n"
)


@dataclass
class Served:
    """An engine with a socket, and a guest behind it."""

    front: EngineSocket
    guest: FakeGuest
    path: Path

    async def connect(self) -> Client:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        return Client(reader, writer)

    @property
    def engine(self) -> ServedEngine:
        return self.front.engine


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """The next one, whole."""
        return (await answers(self.reader, 1))[0]

    async def rest(self) -> bytes:
        return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


async def answers(
    reader: asyncio.StreamReader, count: int, methods: Sequence[str] = ()
) -> list[tuple[int, bytes]]:
    """``count`` answers on one connection, to requests of these ``methods`` (GET)."""
    http = h11.Connection(h11.CLIENT)
    found = []
    for number in range(count):
        method = methods[number] if methods else "GET"
        http.send(h11.Request(method=method, target="/", headers=[("Host", "d")]))
        http.send(h11.EndOfMessage())
        status, body = 0, b""
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(1000))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
        found.append((status, body))
        if number + 1 < count:
            http.start_next_cycle()
    return found


@contextlib.asynccontextmanager
async def vmm_process() -> AsyncIterator[asyncio.subprocess.Process]:
    """What stands for a VMM."""
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def no_manager(call: str, /, **given: Any) -> Mapping[str, Any]:
    raise AssertionError(f"the manager is asked to {call}")


@contextlib.asynccontextmanager
async def serving(
    *, there: bool = True, manager: Ask | None = None, folders: tuple[HostFolder, ...] = ()
) -> AsyncIterator[Served]:
    with tempfile.TemporaryDirectory(prefix="wb-front-", dir="/tmp") as folder:
        guest = FakeGuest(Path(folder) / "vsock")
        path = Path(folder) / "engines" / "ci.sock"
        wanted = ServedEngine(
            *("1", "ci", str(path), os.geteuid(), os.getegid()),
            folders=folders,
            labels=("warmboot.engine=ci",),
        )
        front = EngineSocket(wanted, lambda: None, manager or no_manager)
        async with asyncio.timeout(TIMEOUT_S), guest.served():
            await front.set(replace(wanted, guest=guest.endpoint) if there else wanted)
            try:
                yield Served(front, guest, path)
            finally:
                await front.close()
                assert not path.exists()

"""A guest with a dockerd that does what a test wants of it, behind a Firecracker-style socket.

Its agent takes a token in a connection's first head, takes it away, and hands the rest over. What
dockerd is asked it keeps in ``asked``; by the target of a request it answers:

    /echo…      the body, with a length; /echo-chunked… in chunks
    /upgrade…   101, then what is sent comes back in upper case
    /raw        as attach without an upgrade: 200 without a length, then the same
    /stream…    chunks from ``said`` until ``None`` comes
    /silent     nothing, ever
    /hang-up    no answer, and the connection is closed
    else        what ``told`` has for the path without its version, or ``{"path": target}``
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import h11

from warmboot.model.conventions.engine_front import GuestEndpoint
from warmboot.model.vm import GuestAddress

TOKEN = "t0ken-t0ken-t0ken"


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass
class FakeGuest:
    """``pid`` is whose end is its own: by default this process, which goes on."""

    socket: Path
    pid: int = field(default_factory=os.getpid)
    asked: list[Asked] = field(default_factory=list)
    said: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """A client of ``/silent`` or ``/stream`` was seen to have ended."""
    told: dict[str, bytes] = field(default_factory=dict)
    connections: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    kind: bytes = b"application/json"
    """The content type of ``/stream``."""

    @property
    def endpoint(self) -> GuestEndpoint:
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return GuestEndpoint(
            GuestAddress(port=1024, vsock_socket=self.socket), TOKEN, self.pid, int(stat[19])
        )

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def hang_up(self) -> None:
        """Close all connections that there are."""
        for writer in self._open:
            writer.close()

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[FakeGuest]:
        serving: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            serving.add(task)
            task.add_done_callback(serving.discard)

        server = await asyncio.start_unix_server(accept, str(self.socket), backlog=1024)
        try:
            yield self
        finally:
            server.close()
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        http = h11.Connection(h11.SERVER)
        try:
            assert await reader.readline() == b"CONNECT 1024\n"
            writer.write(b"OK 1\n")
            first = True
            while await self._one(http, reader, writer, first):
                http.start_next_cycle()
                first = False
        except ConnectionError:
            return
        finally:
            self._open.discard(writer)
            writer.close()

    async def _event(self, http: h11.Connection, reader: asyncio.StreamReader) -> object:
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(await reader.read(1000))
        return event

    async def _one(
        self,
        http: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        first: bool,
    ) -> bool:
        request = await self._event(http, reader)
        if not isinstance(request, h11.Request):
            return False
        headers = tuple((n.decode(), v.decode()) for n, v in request.headers.raw_items())
        tokens = [value for name, value in headers if name.lower() == "authorization"]
        assert tokens == ([f"Bearer {TOKEN}"] if first else []), tokens
        body, target = bytearray(), request.target.decode()
        if target == "/hang-up":
            return False
        while isinstance(event := await self._event(http, reader), h11.Data):
            body += event.data
        seen = tuple((n, v) for n, v in headers if n.lower() != "authorization")
        trailers = tuple(event.headers) if isinstance(event, h11.EndOfMessage) else ()
        self.asked.append(Asked(request.method.decode(), target, seen, bytes(body), trailers))
        if target == "/silent" or target.startswith("/stream"):
            return await self._stream(http, reader, writer, silent=target == "/silent")
        if target.startswith("/upgrade") or target.endswith("/attach"):
            await self._shout(http, reader, writer, upgraded=target.startswith("/upgrade"))
            return False
        answer, chunked = bytes(body), target.startswith("/echo-chunked")
        if not target.startswith("/echo"):
            path = re.sub(r"^/v[0-9.]+", "", target.partition("?")[0])
            answer = self.told.get(path, json.dumps({"path": target}).encode())
        framing: tuple[str, str] = ("Transfer-Encoding", "chunked")
        if not chunked:
            framing = ("Content-Length", str(len(answer)))
        response = h11.Response(status_code=200, headers=[("Api-Version", "1.44"), framing])
        writer.write(http.send(response) or b"")
        size = 7000 if chunked else max(1, len(answer))
        if request.method != b"HEAD":
            for start in range(0, len(answer), size):
                writer.write(http.send(h11.Data(data=answer[start : start + size])) or b"")
                await writer.drain()
        writer.write(http.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        return http.our_state is h11.DONE and http.their_state is h11.DONE

    async def _stream(
        self,
        http: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        silent: bool,
    ) -> bool:
        async def watch() -> None:
            while await reader.read(1000):
                pass
            self.ended.set()

        watching = asyncio.create_task(watch())
        try:
            if silent:
                await watching
                return False
            headers = [(b"Content-Type", self.kind), (b"Transfer-Encoding", b"chunked")]
            writer.write(http.send(h11.Response(status_code=200, headers=headers)) or b"")
            while (data := await self.said.get()) is not None:
                writer.write(http.send(h11.Data(data=data)) or b"")
                await writer.drain()
            writer.write(http.send(h11.EndOfMessage()) or b"")
            await writer.drain()
            return False
        finally:
            watching.cancel()

    async def _shout(
        self,
        http: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        upgraded: bool,
    ) -> None:
        if upgraded:
            writer.write(
                b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
                b"Content-Type: application/vnd.docker.multiplexed-stream\r\n\r\n"
            )
        else:
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
            )
        writer.write(b"hello ")
        data = http.trailing_data[0]
        while data or (data := await reader.read(1000)):
            writer.write(data.upper())
            await writer.drain()
            data = b""
        writer.write(b" goodbye")  # after the client has ended its sending
        await writer.drain()

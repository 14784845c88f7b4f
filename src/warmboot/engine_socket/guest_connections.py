"""Connections to Docker in one guest, kept for a while between requests.

The guest's agent takes a token in the first head of a connection, and hands the rest of it to
dockerd: so a connection that has served one request may serve the next one, whoever asks.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import h11

from warmboot.engine_socket.docker_form import Headers, Refusal
from warmboot.engine_socket.limits import (
    ASK_TIMEOUT_S,
    CHUNK_BYTES,
    CONNECT_TIMEOUT_S,
    IDLE_IN_GUEST,
    IDLE_IN_GUEST_S,
    MOST_ANSWER_HEAD_BYTES,
    MOST_CREATE_BYTES,
    MOST_IN_GUEST,
    ROOM_TIMEOUT_S,
)
from warmboot.engine_socket.relay import Stream
from warmboot.host.guest.guest_socket import open_guest_socket
from warmboot.model.conventions.engine_front import GuestEndpoint
from warmboot.model.errors import NetworkError


@dataclass(slots=True)
class GuestConnection:
    """``used``: it has served a request, and so has shown the token. ``ended``: we send no more."""

    stream: Stream
    http: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.CLIENT, MOST_ANSWER_HEAD_BYTES)
    )
    used: bool = False
    ended: bool = False
    idle_since_s: float = 0.0


class GuestConnections:
    """``take`` one for a request, and ``give_back`` it."""

    def __init__(self, name: str, endpoint: GuestEndpoint) -> None:
        self._name = name
        self._endpoint = endpoint
        self._room = asyncio.Semaphore(MOST_IN_GUEST)
        self._idle: deque[GuestConnection] = deque()
        self._streams: dict[int, Stream] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def take(self, *, fresh: bool = False) -> GuestConnection:
        """``Refusal`` where there is no room, or no answer. ``fresh``: none that was used."""
        try:
            async with asyncio.timeout(ROOM_TIMEOUT_S):
                await self._room.acquire()
        except TimeoutError:
            raise Refusal(
                503,
                f"the engine {self._name} has {MOST_IN_GUEST} requests and streams under way, "
                "which is the maximum; try again when some have ended",
            ) from None
        try:
            connection = self._kept() if not fresh else None
            if connection is None and len(self._streams) + len(self._idle) >= MOST_IN_GUEST:
                self._idle.popleft().stream.abort()
            connection = connection or await self._connect()
        except BaseException:  # cancelled, too; raised again
            self._room.release()
            raise
        self._streams[id(connection)] = connection.stream
        return connection

    async def ask(self, target: str) -> tuple[int, Any]:
        """The status and the JSON of a GET of our own. ``Refusal``."""
        status, body = await self._asked(target)
        return status, self._parsed(body)

    async def ask_for_lines(self, target: str) -> list[Any]:
        """The JSON of each line of an answer, if it is one to a GET of our own. ``Refusal``."""
        status, body = await self._asked(target)
        return [self._parsed(line) for line in body.splitlines()] if status == 200 else []

    def _parsed(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: Exception) -> Refusal:
        return Refusal(502, f"no answer: Docker in the engine {self._name}: {error}")

    async def _asked(self, target: str) -> tuple[int, bytes]:
        connection = await self.take(fresh=True)
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await self._answer(connection, target)
        except TimeoutError:
            raise Refusal(
                504, f"Docker in the engine {self._name} gives no answer within {ASK_TIMEOUT_S:g} s"
            ) from None
        finally:
            await self.give_back(connection)

    async def _answer(self, connection: GuestConnection, target: str) -> tuple[int, bytes]:
        http, stream, status, body = connection.http, connection.stream, 0, bytearray()
        try:
            headers = self.authorized(connection, [(b"Host", b"docker")])
            request = h11.Request(method="GET", target=target, headers=headers)
            await stream.send((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
            while not isinstance(event := http.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.read())
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.ConnectionClosed):
                    raise ConnectionError("the connection has ended")
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > MOST_CREATE_BYTES:
                        raise ValueError("the answer is too long")
            return status, bytes(body)
        except (h11.RemoteProtocolError, ConnectionError, ValueError) as error:
            raise self._no_answer(error) from error

    async def give_back(self, connection: GuestConnection) -> None:
        """Keep it for another request, if it is ready for one."""
        http = connection.http
        if connection.ended or http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            await self.drop(connection)
            return
        self._forget(connection)
        http.start_next_cycle()
        connection.used = True
        connection.idle_since_s = asyncio.get_running_loop().time()
        self._idle.append(connection)
        if len(self._idle) > min(IDLE_IN_GUEST, MOST_IN_GUEST - len(self._streams)):
            self._idle.popleft().stream.abort()
        self._sweep_later()

    async def drop(self, connection: GuestConnection) -> None:
        """Close it; what was written to it is still sent, if the guest takes it."""
        try:
            await connection.stream.close()
        finally:
            self._forget(connection)

    def abort(self) -> None:
        """The guest is no more: end all of them now."""
        for stream in (*self._streams.values(), *(one.stream for one in self._idle)):
            stream.abort()
        self._idle.clear()

    def authorized(self, connection: GuestConnection, headers: Headers) -> Headers:
        """A request's headers for this connection. dockerd knows no ``Authorization``."""
        kept = [(name, value) for name, value in headers if name.lower() != b"authorization"]
        if connection.used:
            return kept
        return [*kept, (b"Authorization", f"Bearer {self._endpoint.token}".encode())]

    def _forget(self, connection: GuestConnection) -> None:
        if self._streams.pop(id(connection), None) is not None:
            self._room.release()

    def _kept(self) -> GuestConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.stream.reader.at_eof():
                return connection
            connection.stream.abort()
        return None

    async def _connect(self) -> GuestConnection:
        try:
            connected = await open_guest_socket(self._endpoint.address, CONNECT_TIMEOUT_S)
        except (NetworkError, OSError) as error:
            why = error.details if isinstance(error, NetworkError) else str(error)
            raise Refusal(
                503, f"the engine {self._name} does not answer: {why or 'no answer in time'}"
            ) from error
        reader, writer = await asyncio.open_connection(sock=connected, limit=CHUNK_BYTES)
        return GuestConnection(Stream(reader, writer))

    def _sweep_later(self) -> None:
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(IDLE_IN_GUEST_S, self._sweep_idle)

    def _sweep_idle(self) -> None:
        self._sweep = None
        oldest_s = asyncio.get_running_loop().time() - IDLE_IN_GUEST_S
        while self._idle and self._idle[0].idle_since_s <= oldest_s:
            self._idle.popleft().stream.abort()
        if self._idle:
            self._sweep_later()

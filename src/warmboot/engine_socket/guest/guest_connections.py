"""Connections to Docker in one guest, kept for a while between requests.

The guest's agent takes a token in the first head of a connection, and hands the rest of it to
dockerd: so a connection that has served one request may serve the next one, whoever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from warmboot.engine_socket.docker_form import Headers, Refusal
from warmboot.engine_socket.guest.answers import AnswerHead, BadAnswer, body_of, head_of
from warmboot.engine_socket.limits import (
    ASK_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    IDLE_IN_GUEST,
    IDLE_IN_GUEST_S,
    MOST_ANSWER_HEAD_BYTES,
    MOST_CREATE_BYTES,
    MOST_IN_GUEST,
    READ_AHEAD_BYTES,
    ROOM_TIMEOUT_S,
)
from warmboot.engine_socket.relay import Stream
from warmboot.host.guest.guest_socket import open_guest_socket
from warmboot.model.conventions.engine_front import GuestEndpoint
from warmboot.model.errors import NetworkError
from warmboot.system.on_failure import on_failure


@dataclass(slots=True)
class GuestConnection:
    """``used``: it has served a request, and so has shown the token. ``ended``: we send no more.

    ``kept``: it may have been closed since it was made. ``is_free``: request and answer have
    passed, and another request may follow.
    """

    stream: Stream
    used: bool = False
    kept: bool = False
    ended: bool = False
    is_free: bool = False
    idle_since_s: float = 0.0
    _ahead: bytes = b""

    async def head(self) -> AnswerHead:
        """The head of the next answer. ``BadAnswer``; ``ConnectionError`` where there is none."""
        while (end := self._ahead.find(b"\r\n\r\n")) < 0:
            if len(self._ahead) > MOST_ANSWER_HEAD_BYTES:
                raise BadAnswer("the head of an answer is too long")
            if not (data := await self.stream.read()):
                raise ConnectionError("the connection has ended")
            self._ahead += data
        raw, self._ahead = self._ahead[: end + 4], self._ahead[end + 4 :]
        return AnswerHead.parse(raw)

    def ahead(self) -> bytes:
        """What has been read, and is nobody's yet."""
        data, self._ahead = self._ahead, b""
        return data

    async def read(self) -> bytes:
        """Empty at the end."""
        return self.ahead() or await self.stream.read()

    def over(self, rest: bytes) -> None:
        """Request and answer have passed; nothing may be left over."""
        self.is_free = not rest and not self._ahead and not self.ended


class GuestConnections:
    """``take`` one for a request, and ``give_back`` it."""

    def __init__(self, name: str, endpoint: GuestEndpoint) -> None:
        self._name = name
        self._endpoint = endpoint
        self._room = asyncio.Semaphore(MOST_IN_GUEST)
        self._idle: deque[GuestConnection] = deque()
        self._streams: dict[int, Stream] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._ahead: asyncio.Task[None] | None = None

    def connect_ahead(self) -> None:
        """Have a connection for the first request, if there can be one: it need not wait for it."""
        if self._ahead is None:
            self._ahead = asyncio.create_task(self._connect_ahead())

    async def take(self, *, fresh: bool = False) -> GuestConnection:
        """``Refusal`` where there is no room, or no answer. ``fresh``: none that was used."""
        try:
            if self._room.locked():
                async with asyncio.timeout(ROOM_TIMEOUT_S):
                    await self._room.acquire()
            else:
                await self._room.acquire()  # at once
        except TimeoutError:
            raise Refusal(
                503,
                f"the engine {self._name} has {MOST_IN_GUEST} requests and streams under way, "
                "which is the maximum; try again when some have ended",
            ) from None
        with on_failure(self._room.release):
            connection = self._kept() if not fresh else None
            if connection is None and len(self._streams) + len(self._idle) >= MOST_IN_GUEST:
                self._idle.popleft().stream.abort()
            connection = connection or await self._connect()
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
        size, content = 0, list[bytes]()
        headers = self.authorized(connection, [(b"Host", b"docker")])
        try:
            await connection.stream.send(head_of(f"GET {target} HTTP/1.1".encode(), headers))
            answer = await connection.head()
            body = body_of(answer, b"GET")
            while not body.ended:
                if not (data := await connection.read()):
                    raise ConnectionError("the connection has ended")
                used = body.follow(data, content)
                size += used
                if size > MOST_CREATE_BYTES:
                    raise BadAnswer("the answer is too long")
                if body.ended and answer.keeps_alive:
                    connection.over(data[used:])
            return answer.status, b"".join(content)
        except (BadAnswer, ConnectionError) as error:
            raise self._no_answer(error) from error

    async def give_back(self, connection: GuestConnection) -> None:
        """Keep it for another request, if it is ready for one."""
        if not connection.is_free:
            await self.drop(connection)
            return
        self._forget(connection)
        connection.is_free, connection.used = False, True
        self._keep(connection)

    def _keep(self, connection: GuestConnection) -> None:
        connection.kept = True
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
        if self._ahead is not None:
            self._ahead.cancel()
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

    async def _connect_ahead(self) -> None:
        with contextlib.suppress(Refusal):  # who asks is told
            self._keep(await self._connect())

    async def _connect(self) -> GuestConnection:
        try:
            connected = await open_guest_socket(self._endpoint.address, CONNECT_TIMEOUT_S)
        except (NetworkError, OSError) as error:
            why = error.details if isinstance(error, NetworkError) else str(error)
            raise Refusal(
                503, f"the engine {self._name} does not answer: {why or 'no answer in time'}"
            ) from error
        reader, writer = await asyncio.open_connection(sock=connected, limit=READ_AHEAD_BYTES)
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

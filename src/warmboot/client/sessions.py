"""Exec and attach: a process's input and output over a WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)

from warmboot.client.endpoint import Endpoint
from warmboot.client.problems import ManagerUnreachable, error_from, error_of, unreachable
from warmboot.client.results import LogChunk
from warmboot.model.errors import Unavailable

_STREAMS = {1: "stdout", 2: "stderr"}
_STDIN = b"\x00"
OPEN_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 1.0
"""How long the other end may take to hear that we leave before the process has ended."""


class Session:
    """A running process. Iterate for its output; ``exit_code`` is set when that has ended."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.exit_code: int | None = None
        self.ended = False
        self._unread = False

    async def __aiter__(self) -> AsyncIterator[LogChunk]:
        """Raises what the server tells, ``Unavailable`` when the connection is lost."""
        try:
            async for received in self._connection:
                if isinstance(received, bytes):
                    yield LogChunk(_STREAMS.get(received[0], "stdout"), received[1:])
                    continue
                control = json.loads(received)
                if control["type"] == "exit":
                    self.exit_code = control["exit_code"]
                    self.ended = self._unread = True
                    return
                if control["type"] == "error":
                    raise error_of(control)
        except ConnectionClosed as error:
            raise _lost() from error
        raise _lost()

    async def write(self, data: bytes) -> None:
        """Give the process input. ``Unavailable`` when the connection is lost."""
        await self._send(_STDIN + data)

    async def write_eof(self) -> None:
        """End its input."""
        await self._send(json.dumps({"type": "eof"}))

    async def resize(self, rows: int, columns: int) -> None:
        """Tell it the size of its terminal."""
        await self._send(json.dumps({"type": "resize", "rows": rows, "columns": columns}))

    async def _send(self, frame: str | bytes) -> None:
        if self._unread:
            await asyncio.sleep(0)  # who writes without end gives others a turn
            return
        try:
            await self._connection.send(frame)
        except ConnectionClosedOK:  # its process has ended
            self._unread = True
        except ConnectionClosed as error:
            raise _lost() from error

    async def _started(self) -> None:
        try:
            control = json.loads(await self._connection.recv())
        except ConnectionClosed as error:
            raise _lost() from error
        if control["type"] == "error":
            raise error_of(control)


def _lost() -> Unavailable:
    return Unavailable(
        "the session was cut off", resolution="check whether it is still running: warmboot ps"
    )


@asynccontextmanager
async def open_session(
    endpoint: Endpoint, path: str, token: str | None, start: Mapping[str, Any] | None
) -> AsyncIterator[Session]:
    """Open the session at ``path``, and start it; ``start`` is the first frame of an exec."""
    url = "ws" + (endpoint.url + path).removeprefix("http")
    options: dict[str, Any] = {
        "additional_headers": {"Authorization": f"Bearer {token}"} if token else {},
        "open_timeout": OPEN_TIMEOUT_S,
        "max_size": None,
        "compression": None,  # it costs more than it saves on one machine
        # The pong would wait behind data that somebody is slow to take.
        "ping_interval": None,
        "close_timeout": CLOSE_TIMEOUT_S,
        "proxy": None,
    }
    first = None
    if start is not None:
        first = json.dumps({"type": "start", **start}, ensure_ascii=False)
        first.encode()  # UnicodeEncodeError: the library would log it as a fault of its own
    try:
        if endpoint.socket is not None:
            connection = await unix_connect(str(endpoint.socket), url, **options)
        else:
            connection = await connect(url, **options)
    except InvalidStatus as error:
        raise error_from(error.response.status_code, bytes(error.response.body or b"")) from error
    except (OSError, InvalidURI, WebSocketException, TimeoutError) as error:
        if endpoint.closed_to_us():
            raise unreachable(endpoint, error) from error
        raise ManagerUnreachable(
            "no session could be opened with the manager",
            details=str(error),
            resolution="start it with: warmboot serve (or set WARMBOOT_URL to where it runs)",
        ) from error
    async with connection:
        session = Session(connection)
        try:
            if first is not None:
                await session._send(first)
            await session._started()
            yield session
        except BaseException:  # cancelled, too; raised again
            # A goodbye would wait behind output that nobody takes any more.
            connection.transport.abort()
            raise
        if session.ended:
            # What was still to be sent nobody takes any more.
            connection.transport.abort()

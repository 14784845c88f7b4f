"""A small HTTP/1.1 server on asyncio streams: keep-alive, chunked bodies, streams, upgrades.

A handler takes a ``Request`` and returns one of three answers: a ``Response``, a ``Streaming`` one
(chunked, ends when the client goes away) or an ``Upgrade`` (101, then the raw connection).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MAX_LINE = 64 * 1024


class HttpError(Exception):
    """Becomes an answer with this status and ``{"message": …}``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Request:
    """One request. The body is read on demand and drained if the handler leaves it."""

    def __init__(
        self, method: str, target: str, headers: dict[str, str], reader: asyncio.StreamReader
    ) -> None:
        split = urlsplit(target)
        self.method = method
        self.path = unquote(split.path)
        self.query = dict(parse_qsl(split.query, keep_blank_values=True))
        self.headers = headers
        self._reader = reader
        self._left = 0 if self._chunked else int(headers.get("content-length", "0"))
        self._done = not self._chunked and self._left == 0

    @property
    def last(self) -> bool:
        """Whether the client wants no more of this connection than its answer."""
        return self.headers.get("connection", "").lower() == "close"

    @property
    def _chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    async def chunks(self) -> AsyncIterator[bytes]:
        while not self._done:
            if self._chunked:
                size = int((await self._reader.readuntil(b"\n")).split(b";")[0], 16)
                data = await self._reader.readexactly(size)
                await self._reader.readuntil(b"\n")
                self._done = size == 0
            else:
                data = await self._reader.read(min(self._left, MAX_LINE))
                if not data:
                    raise asyncio.IncompleteReadError(b"", self._left)
                self._left -= len(data)
                self._done = self._left == 0
            if data:
                yield data

    async def body(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object."""
        text = await self.body()
        try:
            value = json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise HttpError(400, f"invalid JSON: {error}") from error
        if not isinstance(value, dict):
            raise HttpError(400, "invalid JSON: an object is expected")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        return self.query.get(name, str(default)).lower() in ("1", "true", "yes")


@dataclass(frozen=True, slots=True)
class Response:
    status: int = 200
    json: object = None
    text: str | None = None

    def body(self) -> tuple[str, bytes]:
        if self.text is not None:
            return "text/plain; charset=utf-8", self.text.encode()
        if self.json is None:
            return "application/json", b""
        return "application/json", json.dumps(self.json).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Streaming:
    chunks: AsyncIterator[bytes]
    content_type: str = "application/json"
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Upgrade:
    run: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    content_type: str = "application/vnd.docker.raw-stream"


Answer = Response | Streaming | Upgrade
Handler = Callable[[Request], Awaitable[Answer]]


async def serve_connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler
) -> None:
    """Answer requests until the client closes or a request is not HTTP."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
        while (request := await _read_request(reader, writer)) is not None:
            try:
                answer = await handler(request)
            except HttpError as error:
                answer = Response(error.status, {"message": error.message})
            except ValueError as error:
                answer = Response(400, {"message": f"malformed request: {error}"})
            async for _ in request.chunks():
                pass
            if isinstance(answer, Response):
                _write_response(writer, answer, request)
                await writer.drain()
            elif isinstance(answer, Streaming):
                if not await _stream(reader, writer, answer):
                    return
            else:
                await _upgrade(reader, writer, answer)
                return
            if request.last:
                return


async def _read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Request | None:
    line = await reader.readline()
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split()
    headers: dict[str, str] = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return Request(method, target, headers, reader)


def _head(status: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def _write_response(writer: asyncio.StreamWriter, answer: Response, request: Request) -> None:
    if answer.status in (204, 304):
        writer.write(_head(answer.status))
        return
    content_type, body = answer.body()
    length = f"Content-Length: {len(body)}"
    writer.write(_head(answer.status, f"Content-Type: {content_type}", length))
    if request.method != "HEAD":
        writer.write(body)


async def _stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Streaming
) -> bool:
    """Send all chunks. False if the client went away first."""
    lines = (f"Content-Type: {answer.content_type}", "Transfer-Encoding: chunked")
    writer.write(_head(200, *lines, *answer.headers))
    gone = asyncio.ensure_future(reader.read(1))
    chunks = aiter(answer.chunks)
    try:
        while True:
            following = asyncio.ensure_future(anext(chunks, None))
            await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await following
                return False
            chunk = following.result()
            if chunk is None:
                break
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return not gone.done()
    finally:
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone


async def _upgrade(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Upgrade
) -> None:
    writer.write(
        _head(
            101,
            f"Content-Type: {answer.content_type}",
            "Connection: Upgrade",
            "Upgrade: tcp",
        )
    )
    await writer.drain()
    await answer.run(reader, writer)

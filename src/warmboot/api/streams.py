"""Streamed responses: container output, framed or plain, and server-sent events.

Framed output is what Docker calls a multiplexed stream: for every chunk one byte that names the
stream (1 stdout, 2 stderr, 3 an error of the server), three zero bytes, the length as a big-endian
32-bit number, then the data.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Send

from warmboot.api.schemas.responses import EventOut
from warmboot.model.errors import WarmbootError
from warmboot.model.journal.event import Event
from warmboot.model.sessions import LogChunk, Stream
from warmboot.system.concurrency import end

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
EVENT_STREAM = "text/event-stream"
STREAM_TAGS = {Stream.STDOUT: 1, Stream.STDERR: 2}
ERROR_TAG = 3

FIRST_CHUNK_WAIT_S = 0.5
KEEP_ALIVE_S = 15.0
MOST_GATHERED_BYTES = 64 << 10
NOT_GUESSED = {"X-Content-Type-Options": "nosniff"}
"""For what a guest has said: it is of the type that we say, and of no other."""

T = TypeVar("T")


class Streamed(StreamingResponse):
    """An answer that is made only as fast as it is taken, and ends with whoever reads it.

    A send that need not wait gives nobody else a turn, not even to the news that the reader has
    gone: so each one is followed by a turn of the loop. However it ends, its source is closed.
    What it has may be a guest's: no browser takes it for a script of this server's own page.
    """

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers(NOT_GUESSED | dict(headers or {}))

    async def stream_response(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        try:
            async for chunk in self.body_iterator:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await asyncio.sleep(0)
        finally:
            await _close(self.body_iterator)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def begun(
    chunks: AsyncIterator[T], wait_s: float | None = FIRST_CHUNK_WAIT_S
) -> AsyncIterator[T]:
    """``chunks``, after its first one is there or has kept us waiting for so long.

    So an error that comes at once is raised here, while a status can still be chosen.
    """
    first = asyncio.ensure_future(anext(chunks, None))
    try:
        done, _ = await asyncio.wait({first}, timeout=wait_s)
    except asyncio.CancelledError:
        await end(first)
        raise
    if done and first.exception() is not None:
        first.result()
    return _from_first(first, chunks)


async def _from_first(first: asyncio.Future[T | None], rest: AsyncIterator[T]) -> AsyncIterator[T]:
    try:
        chunk = await first
        if chunk is None:
            return
        yield chunk
        async for chunk in rest:
            yield chunk
    finally:
        await end(first)
        await _close(rest)


async def _close(iterator: Any) -> None:
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()


async def plain(chunks: AsyncIterator[LogChunk]) -> AsyncGenerator[bytes, None]:
    """Both streams' bytes in the order they came."""
    async with aclosing(chunks) as opened:  # type: ignore[type-var]
        async for chunk in opened:
            yield chunk.data


def frame(tag: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", tag, len(data)) + data


async def multiplexed(chunks: AsyncIterator[LogChunk]) -> AsyncGenerator[bytes, None]:
    """Docker's framing; an error on the way is told in a frame of its own."""
    async with aclosing(chunks) as opened:  # type: ignore[type-var]
        try:
            async for chunk in opened:
                yield frame(STREAM_TAGS[chunk.stream], chunk.data)
        except WarmbootError as error:
            yield frame(ERROR_TAG, json.dumps(error.as_dict()).encode())


async def gathered(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same bytes: what comes while nothing has to be waited for is one piece.

    Each piece is sent, and received, at a cost that a line of six bytes is not worth.
    """
    waiting, came, room = bytearray(), asyncio.Event(), asyncio.Event()

    async def take() -> None:
        async with aclosing(pieces):
            async for piece in pieces:
                waiting.extend(piece)
                came.set()
                if len(waiting) >= MOST_GATHERED_BYTES:
                    room.clear()
                    await room.wait()

    taking = asyncio.create_task(take())
    taking.add_done_callback(lambda _: came.set())
    try:
        while waiting or not taking.done():
            if not waiting:
                came.clear()
                await came.wait()
                continue
            piece = bytes(waiting)
            waiting.clear()
            room.set()
            yield piece
        taking.result()
    finally:
        await end(taking)


def sse(event: Event) -> bytes:
    """One event in the wire format of server-sent events."""
    data = EventOut.of(event).model_dump_json()
    kind = event.kind.replace("\n", " ").replace("\r", " ")
    return f"id: {event.id}\nevent: {kind}\ndata: {data}\n\n".encode("utf-8", "backslashreplace")


async def event_stream(
    events: AsyncIterator[Event], most: int | None = None
) -> AsyncIterator[bytes]:
    """Events as they come, ``most`` if so many are asked for; a comment at once, and whenever it
    has been quiet for a while.
    """
    sent = 0
    following: asyncio.Future[Event | None] = asyncio.ensure_future(anext(events, None))
    try:
        # One turn of the loop, so that the subscription stands before the client is told.
        await asyncio.wait({following}, timeout=0.01)
        yield b": connected\n\n"
        while True:
            done, _ = await asyncio.wait({following}, timeout=KEEP_ALIVE_S)
            if not done:
                yield b": keep-alive\n\n"
                continue
            event = following.result()
            if event is None:
                return
            yield sse(event)
            sent += 1
            if sent == most:
                return
            following = asyncio.ensure_future(anext(events, None))
    finally:
        await end(following)
        await _close(events)

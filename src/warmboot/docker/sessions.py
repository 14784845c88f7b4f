"""Sessions with a container's processes: an exec, or its own (attach).

A session is iterated for its output, written to, resized, asked for the exit code, and closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
from aiodocker.stream import Message
from aiodocker.stream import Stream as Hijacked

from warmboot.docker.batches import joined, let_more_come
from warmboot.docker.errors import plain_reason
from warmboot.docker.place import Place
from warmboot.model.errors import WarmbootError
from warmboot.model.sessions import LogChunk, Stream


def chunk_of(number: int, data: bytes) -> LogChunk:
    """Docker counts the streams: 1 is standard output, 2 standard error."""
    return LogChunk(Stream.STDERR if number == 2 else Stream.STDOUT, data)


async def already() -> None:
    """The start of a container that ran before anybody attached to it: there is nothing to do."""


@dataclass(slots=True)
class AttachedSession:
    """A process at the other end of a hijacked connection; ``held`` is given back at its end."""

    place: Place
    hijacked: Hijacked
    resized: Callable[[int, int], Awaitable[None]]
    ended: Callable[[], Awaitable[int | None]]
    begun: Callable[[], Awaitable[None]] = already
    """Returns when the process has been started, or could not be; it may have ended since."""

    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    output_ended: bool = False

    async def __aiter__(self) -> AsyncIterator[LogChunk]:
        try:
            while messages := await self._arrived():
                for piece in joined(messages):
                    yield chunk_of(*piece)
                await let_more_come(sum(len(message.data) for message in messages))
        except (aiohttp.ClientError, OSError) as error:
            raise self._over("the session was interrupted", error) from error

    async def _arrived(self) -> list[Message]:
        """What is there, as soon as there is something; nothing at the end."""
        first = await self.hijacked.read_out()
        if first is None:
            self.output_ended = True
            return []
        messages = [first]
        queue = self.hijacked._queue
        while queue is not None and queue._buffer:  # the next read would not wait
            messages.append(await queue.read())
        return messages

    async def write(self, data: bytes) -> None:
        """What its process does not read, because it has ended or closed its input, is dropped."""
        # The library asserts on a connection whose other end is gone. If it was interrupted, its
        # output tells.
        with contextlib.suppress(aiohttp.ClientError, OSError, RuntimeError, AssertionError):
            await self.hijacked.write_in(data)

    async def write_eof(self) -> None:
        transport = self._transport
        if transport is not None and transport.can_write_eof():
            transport.write_eof()

    @property
    def _transport(self) -> asyncio.Transport | None:
        response = self.hijacked._resp
        return response.connection.transport if response and response.connection else None

    async def resize(self, rows: int, columns: int) -> None:
        # A process that has just ended cannot be resized, and need not be.
        with contextlib.suppress(WarmbootError):
            await self.resized(rows, columns)

    async def exit_code(self) -> int | None:
        return await self.ended()

    async def close(self) -> None:
        self.held.close()
        if self.output_ended and self._transport is not None:
            self._transport.abort()  # nobody takes what input is still to be sent
        with contextlib.suppress(aiohttp.ClientError, OSError, AssertionError):
            await self.hijacked.close()

    def _over(self, brief: str, error: Exception) -> WarmbootError:
        return self.place.unavailable(brief, details=plain_reason(error))


@dataclass(slots=True)
class QuietSession:
    """Nothing reaches its process, which has ended or was only begun; its ``chunks`` are known."""

    chunks: AsyncGenerator[LogChunk, None] | None = None
    ended: int | None = None
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    async def __aiter__(self) -> AsyncIterator[LogChunk]:
        if self.chunks is not None:
            async with contextlib.aclosing(self.chunks):
                async for chunk in self.chunks:
                    yield chunk

    async def write(self, data: bytes) -> None:
        """Nobody reads it."""

    async def write_eof(self) -> None:
        """Nobody reads it."""

    async def resize(self, rows: int, columns: int) -> None:
        """There is no terminal."""

    async def exit_code(self) -> int | None:
        return self.ended

    async def close(self) -> None:
        self.held.close()

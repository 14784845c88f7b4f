"""Docker's stream framing, and connections that carry stdin one way and output the other."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator

from warmboot.hypervisors.simulated.vmm.machine import GuestClock

MOST_PIECES = 16
"""Input that waits for a program to read it; the client waits when there is more."""


def frame(stream: int, data: bytes, tty: bool) -> bytes:
    """A piece of output after a header of 8 bytes (stream, length); with a TTY the bare
    bytes, CRLF.
    """
    if tty:
        return data.replace(b"\n", b"\r\n")
    return struct.pack(">BxxxL", stream, len(data)) + data


async def feed(
    reader: asyncio.StreamReader, stdin: asyncio.Queue[bytes] | None, clock: GuestClock, tty: bool
) -> None:
    """Pass what the client sends to a program's stdin; its end of file too, but to no terminal."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            await clock.running()
            if stdin is not None:
                await stdin.put(data)
    if stdin is not None and not tty:
        await stdin.put(b"")


def pipe() -> asyncio.Queue[bytes]:
    """A program's input."""
    return asyncio.Queue(MOST_PIECES)


async def send(writer: asyncio.StreamWriter, chunks: AsyncGenerator[bytes, None]) -> None:
    with contextlib.suppress(ConnectionError):
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                writer.write(chunk)
                await writer.drain()


@contextlib.asynccontextmanager
async def feeding(
    reader: asyncio.StreamReader, stdin: asyncio.Queue[bytes] | None, clock: GuestClock, tty: bool
) -> AsyncIterator[None]:
    task = asyncio.create_task(feed(reader, stdin, clock, tty))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

"""Docker's stream framing, and connections that carry stdin one way and output the other."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

from warmboot.hypervisors.simulated.vmm.machine import GuestClock


def frame(stream: int, text: str, tty: bool) -> bytes:
    """8 bytes of header (stream, length) before each piece; with a TTY the bare bytes, CRLF."""
    if tty:
        return text.replace("\n", "\r\n").encode()
    data = text.encode()
    return struct.pack(">BxxxL", stream, len(data)) + data


async def feed(
    reader: asyncio.StreamReader, stdin: asyncio.Queue[bytes] | None, clock: GuestClock
) -> None:
    """Pass what the client sends to a program's stdin; its end of file too."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            await clock.running()
            if stdin is not None:
                stdin.put_nowait(data)
    if stdin is not None:
        stdin.put_nowait(b"")


async def send(writer: asyncio.StreamWriter, chunks: AsyncIterator[bytes]) -> None:
    with contextlib.suppress(ConnectionError):
        async for chunk in chunks:
            writer.write(chunk)
            await writer.drain()


@contextlib.asynccontextmanager
async def feeding(
    reader: asyncio.StreamReader, stdin: asyncio.Queue[bytes] | None, clock: GuestClock
) -> AsyncIterator[None]:
    task = asyncio.create_task(feed(reader, stdin, clock))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

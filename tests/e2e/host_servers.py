"""Servers of the host, which a guest may or may not reach."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

GREETING = "the host\n"


@contextlib.asynccontextmanager
async def greeter(reached: list[str] | None = None, address: str = "0.0.0.0") -> AsyncIterator[int]:
    """One that says ``GREETING``; yields its port. Who ``reached`` it is noted."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reached is not None:
            reached.append(writer.get_extra_info("peername")[0])
        writer.write(f"HTTP/1.0 200 OK\r\n\r\n{GREETING}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, address, 0) as server:
        yield server.sockets[0].getsockname()[1]


def own_address() -> str:
    """The host's address towards the world, or loopback when it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])

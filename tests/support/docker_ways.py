"""The ways to a Docker engine that listens on a Unix socket: as the host's own, or as a guest's.

The guest's leads through its agent: here a port of a vsock, each connection handed to the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from warmboot.docker.client import DockerClient
from warmboot.docker.place import at_socket
from warmboot.host.guest.guest_connections import docker_in_guest
from warmboot.host.guest.guest_link import AGENT_PORT
from warmboot.model.vm import GuestAddress

HOST, GUEST = WAYS = ("host", "guest")
TOKEN = "t0ken"


@contextlib.asynccontextmanager
async def client_by(
    way: str, socket: Path, *, api_version: str = "v1.44", answer_timeout_s: float = 30.0
) -> AsyncIterator[DockerClient]:
    """A client of the engine at ``socket``."""
    async with contextlib.AsyncExitStack() as stack:
        if way == HOST:
            place = at_socket(socket)
        else:
            vsock = socket.with_name(f"{socket.name}.vsock")
            await stack.enter_async_context(_agent(vsock, socket))
            place = docker_in_guest("vm-1", GuestAddress(AGENT_PORT, vsock_socket=vsock), TOKEN)
        client = DockerClient(
            replace(place, api_version=api_version, answer_timeout_s=answer_timeout_s)
        )
        stack.push_async_callback(client.close)
        yield client


@contextlib.asynccontextmanager
async def _agent(vsock: Path, engine: Path) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            assert await reader.readline() == b"CONNECT %d\n" % AGENT_PORT
            writer.write(b"OK 1\n")
            there, to_engine = await asyncio.open_unix_connection(engine)
            await asyncio.gather(_copy(reader, to_engine), _copy(there, writer))
        writer.close()

    server = await asyncio.start_unix_server(serve, vsock)
    try:
        yield
    finally:
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

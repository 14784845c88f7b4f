"""``WARMBOOT_URL`` may name any server: what no manager says is an error in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from warmboot.client import Client
from warmboot.model.errors import Unavailable

CONTENTS = (b"<html>hello</html>", b'{"items": [', b"[]", b"{}", b"7", b'{"items": 7}', b"\xff")
ITEMS = (b'{"items": [7]}', b'{"items": [{"id": 7}]}', b'{"items": [{}]}')


@asynccontextmanager
async def saying(content: bytes) -> AsyncIterator[Client]:
    """The client of a server that says this to every request."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Client(f"http://127.0.0.1:{port}") as client:
            yield client


@pytest.mark.parametrize("content", CONTENTS)
async def test_what_no_manager_says_is_told_with_where_to_look(content: bytes) -> None:
    async with saying(content) as client:
        for asking in (
            client.containers.create(image="busybox"),
            client.containers.list(),
            client.containers.get("c"),
            client.system.doctor(),
            client.images.list(),
            client.workers.create(image="busybox"),
        ):
            with pytest.raises(Unavailable):
                await asking


@pytest.mark.parametrize("content", ITEMS)
async def test_things_of_another_kind_are_not_understood(content: bytes) -> None:
    async with saying(content) as client:
        with pytest.raises(Unavailable, match="not understood"):
            await client.containers.list()

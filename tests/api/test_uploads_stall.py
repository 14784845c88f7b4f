"""An upload that stalls is cut off, and what there was of it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.api.conftest import Peers
from tests.support.fake_services import FakeServices
from tests.support.room import Disk
from tests.support.serving import port_of, serving

from warmboot.api import create_app
from warmboot.api.routes import archives
from warmboot.client import Client
from warmboot.manager.containers.archives import ArchiveFiles
from warmboot.manager.core.uploads import Uploads
from warmboot.model.errors import Conflict, NotFound

HEAD = (
    b"POST /v1/archives HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/octet-stream\r\nContent-Length: 1000000000\r\n\r\n"
)


@contextlib.asynccontextmanager
async def door(fakes: FakeServices, disk: Disk) -> AsyncIterator[int]:
    files = ArchiveFiles(disk.folder, Uploads(disk))
    app = create_app(dataclasses.replace(fakes.services, archives=files), peers=Peers())
    async with serving(app) as server:
        yield port_of(server)


async def test_a_stalled_upload_is_told_so_and_leaves_nothing(
    fakes: FakeServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "STALLED_S", 0.3)
    async with door(fakes, Disk(tmp_path)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"x" * 1_000_000)
        async with asyncio.timeout(60):
            assert b" 408 " in await reader.readuntil(b"\r\n\r\n")
        assert not list(tmp_path.iterdir())
        writer.close()


async def test_a_trickle_is_a_stall(
    fakes: FakeServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "STALLED_S", 0.3)
    async with door(fakes, Disk(tmp_path)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        async with asyncio.timeout(60):
            while not answer.done():
                with contextlib.suppress(ConnectionError):
                    writer.write(b"x")
                    await writer.drain()
                await asyncio.wait({answer}, timeout=0.02)
        assert b" 408 " in answer.result()
        assert not list(tmp_path.iterdir())
        writer.close()


async def test_one_that_does_not_fit_is_refused_at_its_head(
    fakes: FakeServices, tmp_path: Path
) -> None:
    async with door(fakes, Disk(tmp_path, size_bytes=1000)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
        assert b" 507 " in head
        assert b"connection: close" in head
        writer.close()


async def test_an_import_that_is_refused_is_told_why_however_much_is_still_to_come(
    fakes: FakeServices, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    with archive.open("wb") as file:
        file.truncate(64 << 20)
    app = create_app(fakes.services, peers=Peers())
    async with serving(app) as server, Client(f"http://127.0.0.1:{port_of(server)}") as client:
        running = await client.workers.create(image="busybox", name="running")
        with pytest.raises(Conflict, match="given a checkpoint from outside"):
            await client.workers.import_checkpoint(running, archive, "arrived")


async def test_files_for_a_container_that_is_not_there_are_refused_with_that_reason(
    fakes: FakeServices,
) -> None:
    async def much() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 20)

    app = create_app(fakes.services, peers=Peers())
    async with serving(app) as server, Client(f"http://127.0.0.1:{port_of(server)}") as client:
        with pytest.raises(NotFound, match="nobody"):
            await client.files.write("nobody", "/tmp", much())

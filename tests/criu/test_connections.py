"""Connections over a pause: kept when it is quick, made again when not, each change once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from tests.criu.conftest import Start, wait_for_line
from tests.support.images import client_image, python_image
from tests.support.ports import free_port

from warmboot.criu.checkpoint import checkpoint
from warmboot.criu.restore import restore
from warmboot.docker.engine import DockerEngine

pytestmark = [pytest.mark.docker, pytest.mark.root]

SITE = Path(httpx.__file__).parents[1]
PACKAGES = ("httpx", "httpcore", "h11", "anyio", "idna", "certifi", "typing_extensions.py")
WORKER_IMAGE = "warmboot-test/worker:1"
WORKER = """
import asyncio, sys
from warmboot.worker import Session
from warmboot.worker.session import RetryPolicy

async def main():
    async with Session(retry=RetryPolicy(attempts=60, first_s=0.1, longest_s=0.5)) as session:
        session.on_restored(lambda away_s: print("restored", flush=True))
        response = await session.post("/change", json={"amount": 1})
        print("done", response.status_code, session.restores, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


class Counting:
    """Answers each line with how many it had on that connection; knows how many there were."""

    def __init__(self) -> None:
        self.connections = 0
        self.lines = 0
        self.more = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        count = 0
        with contextlib.suppress(ConnectionError):
            while await reader.readline():
                count += 1
                writer.write(f"{count}\n".encode())
                await writer.drain()
                async with self.more:
                    self.lines = count
                    self.more.notify_all()
        writer.close()

    async def reach(self, lines: int) -> None:
        async with asyncio.timeout(60), self.more:
            await self.more.wait_for(lambda: self.lines >= lines)


async def test_an_established_connection_survives_a_quick_pause(
    engine: DockerEngine, start: Start
) -> None:
    counting = Counting()
    server = await asyncio.start_server(counting.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        await engine.load_image(client_image(port))
        container = await start("warmboot-test/client:1")
        for name in ("cp1", "cp2"):
            await counting.reach(counting.lines + 3)
            dumped = await checkpoint(engine, container, name)
            assert dumped.tcp_connections == 1
            before = counting.lines
            await restore(engine, container, name)
            await counting.reach(before + 3)
        assert counting.connections == 1
        await engine.remove(container)


class Ledger:
    """A server that does each change once, and can be gone for a while."""

    def __init__(self) -> None:
        self.changes: dict[str, int] = {}
        self.requests = 0
        self.arrived = asyncio.Event()
        self.answers = False

    async def change(self, request: web.Request) -> web.Response:
        key = request.headers["Idempotency-Key"]
        amount = (await request.json())["amount"]
        self.requests += 1
        self.changes.setdefault(key, amount)
        self.arrived.set()
        if not self.answers:
            await asyncio.Event().wait()
        return web.json_response({"total": sum(self.changes.values())})

    @contextlib.asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/change", self.change)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        try:
            yield
        finally:
            await runner.cleanup()


@pytest.mark.slow
async def test_a_change_in_flight_happens_exactly_once(engine: DockerEngine, start: Start) -> None:
    import warmboot

    extra = (*(SITE / name for name in PACKAGES), Path(warmboot.__file__).parent)
    image = await asyncio.to_thread(python_image, WORKER_IMAGE, extra)
    await engine.load_image(image)
    ledger, port = Ledger(), free_port()
    async with ledger.serving(port):
        container = await start(
            WORKER_IMAGE,
            command=("/usr/bin/python3", "-c", WORKER),
            environment={"WARMBOOT_URL": f"http://127.0.0.1:{port}", "WARMBOOT_WORKER_ID": "w1"},
        )
        async with asyncio.timeout(60):
            await ledger.arrived.wait()
        dumped = await checkpoint(engine, container, "cp")
        assert dumped.tcp_connections >= 1
    # The server is gone when the worker is back, and comes a little later.
    await asyncio.sleep(1.5)
    await restore(engine, container, "cp")
    await wait_for_line(engine, container, lambda line: line == "restored")
    await asyncio.sleep(0.5)  # it asks in vain meanwhile
    ledger.answers = True
    async with ledger.serving(port):
        done = await wait_for_line(engine, container, lambda line: line.startswith("done"))
        await engine.remove(container)
    assert done == "done 200 1"
    assert list(ledger.changes.values()) == [1]
    assert ledger.requests == 2

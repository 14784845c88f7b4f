"""Rounds of one worker that counts over an open HTTP connection and into an append-only file.

Nothing that it has said or written may be lost, and nothing be there twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from aiohttp import web

from warmboot.client import Client

ROUND_TIMEOUT_S = 30.0

COUNTED_FILE = "counted"
COUNT_OVER_HTTP = (
    f"exec 3>> /{COUNTED_FILE}; "
    "( printf 'POST /count HTTP/1.1\\r\\nHost: bench\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n'; "
    "i=0; while true; do i=$((i+1)); echo $i >&3; printf '%x\\r\\n%s\\n\\r\\n' $((${{#i}}+1)) $i; "
    "sleep 0.05; done ) | nc 127.0.0.1 {port}"
)


class _Numbers:
    """Told one after the other: how many are not the one after the one before."""

    def __init__(self) -> None:
        self.last = 0
        self.wrong = 0

    def add(self, number: int) -> None:
        self.wrong += number != self.last + 1
        self.last = number


class Counting:
    """An HTTP server that hears a worker count, on as many connections as that needs."""

    def __init__(self) -> None:
        self.requests = 0
        self.heard = _Numbers()
        self._heard = asyncio.Condition()

    async def _hear(self, request: web.Request) -> web.Response:
        self.requests += 1
        with contextlib.suppress(ConnectionError):  # it is removed in the middle, at the end
            async for line in request.content:
                async with self._heard:
                    self.heard.add(int(line))
                    self._heard.notify_all()
        return web.Response()

    async def beyond(self, number: int) -> bool:
        """Whether a higher one was heard in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUND_TIMEOUT_S), self._heard:
                await self._heard.wait_for(lambda: self.heard.last > number)
                return True
        return False

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Its port."""
        app = web.Application()
        app.router.add_post("/count", self._hear)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield int(runner.addresses[0][1])
        finally:
            await runner.cleanup()


class CountedFile:
    """The worker's file, read on from where it was read to before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self.numbers = _Numbers()

    def read_on(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            whole = file.read().rpartition(b"\n")[0]
        for line in whole.splitlines():
            self.numbers.add(int(line))
        self._read_bytes += len(whole) + bool(whole)


async def rounds_kept(
    client: Client, worker_id: str, counting: Counting, file: CountedFile, rounds: Iterator[int]
) -> int:
    """Those after which both counts went on, without loss and on the same HTTP connection."""
    kept = 0
    await counting.beyond(2)
    for _ in rounds:
        file.read_on()
        was = (counting.heard.wrong, file.numbers.wrong, counting.requests)
        written = file.numbers.last
        await client.workers.pause(worker_id)
        before = counting.heard.last
        await client.workers.resume(worker_id)
        went_on = await counting.beyond(before + 1)
        file.read_on()
        now = (counting.heard.wrong, file.numbers.wrong, counting.requests)
        kept += went_on and now == was and file.numbers.last > max(written, before)
    return kept

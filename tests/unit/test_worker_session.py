"""The session that a worker imports, against a real server on a real socket."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from aiohttp import web

from warmboot.worker import GaveUp, NotAWorker, RetryPolicy, Session
from warmboot.worker.clock import AwayClock

QUICK = RetryPolicy(attempts=6, first_s=0.01, longest_s=0.05)


class Server:
    """Counts each key's change once, and fails as it is told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self.changes: set[str] = set()
        self.failures: list[int] = []
        self.silence: asyncio.Event | None = None
        self.arrived = asyncio.Event()
        self.authorization: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        key = request.headers.get("Idempotency-Key", "")
        self.arrived.set()
        self.seen.append((request.method, request.path, key))
        self.authorization.append(request.headers.get("Authorization", ""))
        if self.failures:
            status = self.failures.pop(0)
            if status == 0:
                assert request.transport is not None
                request.transport.abort()
            headers = {"Retry-After": "0"} if status in (409, 503) else {}
            return web.Response(status=status or 500, headers=headers)
        self.changes.add(key)
        if self.silence is not None:
            gate, self.silence = self.silence, None
            await gate.wait()
        return web.json_response({"ok": True})


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("failures", [[503], [0], [0, 500, 429], [409]])
async def test_a_change_is_tried_again_with_the_same_key(failures: list[int]) -> None:
    server = Server()
    server.failures = list(failures)
    async with serving(server) as url, Session(url, "w1", retry=QUICK) as session:
        assert (await session.post("/v1/x", json={"a": 1})).status_code == 200
    assert len(server.seen) == len(failures) + 1
    keys = {key for _, _, key in server.seen}
    assert len(keys) == 1
    assert all(keys)
    assert server.changes == keys


async def test_two_changes_have_two_keys() -> None:
    server = Server()
    async with serving(server) as url, Session(url, "w1", retry=QUICK) as session:
        await session.post("/v1/x")
        await session.post("/v1/x")
    assert len(server.changes) == 2
    assert all(server.changes)


async def test_reading_needs_no_key() -> None:
    server = Server()
    async with serving(server) as url, Session(url, "w1", retry=QUICK) as session:
        await session.get("/v1/x")
    assert server.seen == [("GET", "/v1/x", "")]


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_an_answer_that_will_not_change_is_given_at_once(status: int) -> None:
    server = Server()
    server.failures = [status]
    async with serving(server) as url, Session(url, "w1", retry=QUICK) as session:
        assert (await session.post("/v1/x")).status_code == status
    assert len(server.seen) == 1


async def test_it_gives_up_after_the_last_attempt() -> None:
    async with Session("http://127.0.0.1:9", "w1", retry=QUICK) as session:
        with pytest.raises(GaveUp) as caught:
            await session.post("/v1/x")
    assert caught.value.attempts == 6
    assert isinstance(caught.value.last, httpx.ConnectError)


async def test_report_and_ask_pause_go_to_the_own_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    async with serving(server) as url:
        monkeypatch.setenv("WARMBOOT_URL", url)
        monkeypatch.setenv("WARMBOOT_WORKER_ID", "w7")
        monkeypatch.setenv("WARMBOOT_TOKEN", "secret")
        async with Session(retry=QUICK) as session:
            await session.report("progress", {"done": 1})
            await session.ask_pause()
    assert [path for _, path, _ in server.seen] == ["/v1/workers/w7/events", "/v1/workers/w7/pause"]
    assert server.authorization == ["Bearer secret"] * 2


async def test_the_token_is_for_the_manager_alone() -> None:
    server = Server()
    async with (
        serving(server) as other,
        Session("http://127.0.0.1:9", "w1", "secret", retry=QUICK) as session,
    ):
        await session.get(f"{other}/elsewhere")
    assert server.authorization == [""]


async def test_without_a_manager_there_is_nobody_to_report_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WARMBOOT_URL", raising=False)
    async with Session(retry=QUICK) as session:
        with pytest.raises(NotAWorker):
            await session.report("progress")


class Wall:
    """A wall clock that jumps, beside a monotonic one that does not."""

    def __init__(self) -> None:
        self.jumped_s = 0.0

    def clock(self) -> AwayClock:
        return AwayClock(wall=lambda: 1000.0 + self.jumped_s, monotonic=lambda: 5.0)


def test_a_clock_that_runs_evenly_was_not_away() -> None:
    now = [0.0]
    clock = AwayClock(wall=lambda: 100 + now[0], monotonic=lambda: now[0])
    now[0] = 3600.0
    assert clock.away_s() == 0.0


def test_being_away_is_told_once() -> None:
    wall = Wall()
    clock = wall.clock()
    wall.jumped_s = 30.0
    assert clock.away_s() == pytest.approx(30.0)
    assert clock.away_s() == 0.0


def test_a_clock_set_back_is_no_restore() -> None:
    wall = Wall()
    clock = wall.clock()
    wall.jumped_s = -30.0
    assert clock.away_s() == 0.0


async def test_what_is_in_flight_at_a_restore_is_sent_again_and_done_once() -> None:
    server, wall = Server(), Wall()
    away: list[float] = []
    server.silence = gate = asyncio.Event()
    async with (
        serving(server) as url,
        Session(url, "w1", retry=QUICK, clock=wall.clock()) as session,
    ):
        session.on_restored(away.append)
        posting = asyncio.create_task(session.post("/v1/x"))
        async with asyncio.timeout(60):
            await server.arrived.wait()
        wall.jumped_s = 60.0
        async with asyncio.timeout(60):
            assert (await posting).status_code == 200
        gate.set()
    assert away == [pytest.approx(60.0)]
    assert session.restores == 1
    assert len(server.seen) == 2
    assert len(server.changes) == 1


async def test_an_async_hook_is_awaited_and_may_send() -> None:
    server, wall = Server(), Wall()
    async with (
        serving(server) as url,
        Session(url, "w1", retry=QUICK, clock=wall.clock()) as session,
    ):

        async def tell(away_s: float) -> None:
            await session.report("restored", {"away_s": away_s})

        session.on_restored(tell)
        wall.jumped_s = 5.0
        await session.get("/v1/x")
    assert [path for _, path, _ in server.seen] == ["/v1/workers/w1/events", "/v1/x"]


def test_waits_grow_have_jitter_and_a_limit() -> None:
    policy = RetryPolicy(first_s=1.0, longest_s=8.0)
    for attempt in range(1, 40):
        longest = min(8.0, 2.0 ** (attempt - 1))
        assert longest / 2 <= policy.wait_s(attempt) <= longest
    assert policy.wait_s(1, asked_s=3600.0) == 8.0


def test_it_needs_httpx_and_nothing_of_the_rest() -> None:
    code = (
        "import sys; import warmboot.worker; "
        "print([m for m in sys.modules if m.startswith('warmboot.') "
        "and not m.startswith('warmboot.worker')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"

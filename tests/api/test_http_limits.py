"""Connections that only hold on, and those that are too many, keep nobody else out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator

import pytest
from starlette.types import Receive, Scope, Send
from tests.support.eventually import until
from tests.support.fake_services import FakeServices
from tests.support.serving import port_of, serving

from warmboot.api import create_app
from warmboot.api.http.limits import HttpLimits, connections_within, raise_descriptor_limit
from warmboot.api.middleware.body import MAX_BODY_BYTES
from warmboot.api.middleware.sock_diag import Address
from warmboot.bootstrap.logs import OncePerSecond

HOST = b"Host: 127.0.0.1\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connected(port: int, count: int = 1) -> AsyncIterator[list[Pair]]:
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    try:
        yield pairs
    finally:
        for _, writer in pairs:
            writer.close()


async def answered(port: int, sent: bytes) -> bytes:
    async with connected(port) as [(reader, writer)]:
        writer.write(sent)
        async with asyncio.timeout(60):
            return await reader.read()


async def test_a_head_that_does_not_end_is_told_so_and_cut_off(fakes: FakeServices) -> None:
    async with (
        serving(create_app(fakes.services), limits=HttpLimits(head_s=0.2)) as server,
        contextlib.AsyncExitStack() as kept,
    ):
        readers = []
        for _ in range(3):  # each says something at once, or it would be closed as silent
            [(reader, writer)] = await kept.enter_async_context(connected(port_of(server)))
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127")
            readers.append(reader)
        async with asyncio.timeout(60):
            for reader in readers:
                answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 408 ")
                assert b'"code": "too-slow"' in answer


async def test_a_connection_that_says_nothing_is_closed(fakes: FakeServices) -> None:
    async with (
        serving(create_app(fakes.services), limits=HttpLimits(head_s=0.2)) as server,
        connected(port_of(server)) as [(reader, _)],
        asyncio.timeout(60),
    ):
        assert await reader.read() == b""


async def test_half_sent_heads_do_not_keep_others_out(fakes: FakeServices) -> None:
    limits = HttpLimits(connections=8, surplus=2)
    async with (
        serving(create_app(fakes.services), limits=limits) as server,
        connected(port_of(server), 20) as pairs,
    ):
        for _, writer in pairs:
            writer.write(b"GET / HTTP/1.1\r\n")
        for _ in range(12):
            assert b" 200 " in await answered(port_of(server), HEALTH)
        assert len(server.held) <= 8


async def test_when_all_connections_work_others_are_told_and_health_checks_are_answered() -> None:
    release, busy = asyncio.Event(), asyncio.Semaphore(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/long":
            busy.release()
            await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    limits = HttpLimits(connections=3, surplus=2)
    async with serving(app, limits=limits) as server, connected(port_of(server), 3) as pairs:
        for _, writer in pairs:
            writer.write(b"GET /long HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        for _ in pairs:
            await busy.acquire()
        other = b"GET /other HTTP/1.1\r\n" + HOST + b"\r\n"
        refused = await answered(port_of(server), other)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b'"code": "too-many-connections"' in refused
        assert b" 200 " in await answered(port_of(server), HEALTH)
        release.set()
        for reader, _ in pairs:
            assert b" 200 " in await reader.read()


async def test_where_descriptors_run_out_new_connections_are_cut_off_at_once(
    fakes: FakeServices,
) -> None:
    async with contextlib.AsyncExitStack() as kept:
        most = os.open("/", os.O_RDONLY) + 100  # of ours and the clients', who are in here, too
        kept.callback(os.close, most - 100)
        limits = HttpLimits(descriptors_by_tcp=most)
        async with serving(create_app(fakes.services), limits=limits) as server:
            pairs = await kept.enter_async_context(connected(port_of(server), 60))
            readers = [reader for reader, _ in pairs]
            await until(lambda: any(reader.at_eof() for reader in readers))
            assert 0 < len(server.held) < 60


async def test_a_stranger_s_request_with_a_body_is_not_waited_for(fakes: FakeServices) -> None:
    class Nobody:
        async def why_not_root(self, client: Address, server: Address) -> str:
            return "a stranger"

    head = b"POST /healthz HTTP/1.1\r\n" + HOST + b"Idempotency-Key: k\r\nContent-Length: 9\r\n\r\n"
    limits = HttpLimits(connections=4, surplus=1, drain_s=30)
    app = create_app(fakes.services, peers=Nobody())
    async with serving(app, limits=limits) as server, contextlib.AsyncExitStack() as kept:
        for _ in range(12):
            [(reader, writer)] = await kept.enter_async_context(connected(port_of(server)))
            writer.write(head)
            async with asyncio.timeout(60):
                assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
            assert b" 200 " in await answered(port_of(server), HEALTH)


async def test_a_json_body_without_an_end_is_cut_off_at_its_limit(fakes: FakeServices) -> None:
    head = (
        b"POST /v1/containers HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    sent = 0
    async with (
        serving(create_app(fakes.services), limits=HttpLimits(drain_bytes=1 << 20)) as server,
        connected(port_of(server)) as [(reader, writer)],
        asyncio.timeout(60),
    ):
        writer.write(head)
        answer = asyncio.create_task(reader.readline())
        with contextlib.suppress(ConnectionError):
            while sent < 64 * MAX_BODY_BYTES:  # it goes on after the answer, too
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(0)
                sent += 65536
        assert sent < 64 * MAX_BODY_BYTES
        assert (await answer).startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off() -> None:
    ended = asyncio.Event()
    size = 64 << 20

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        length = (b"content-length", str(size).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": bytes(size), "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    async with (
        serving(app, limits=HttpLimits(stalled_s=0.2)) as server,
        connected(port_of(server)) as [(_, writer)],
    ):
        writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        async with asyncio.timeout(60):
            await ended.wait()


def test_connections_stay_well_below_the_descriptors() -> None:
    assert connections_within(1024, 1024) == 256
    assert connections_within(100, 65536) == 100
    assert connections_within(100, 2) == 1


def test_the_limit_of_descriptors_is_raised_as_far_as_it_goes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
        assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 65536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_of_one_kind_one_line_a_second_is_written_and_the_rest_counted() -> None:
    now = 0.0
    limit = OncePerSecond(lambda: now)
    assert limit.left_out("full") == 0
    assert limit.left_out("other") == 0
    assert [limit.left_out("full") for _ in range(500)] == [None] * 500
    now = 1.0
    assert limit.left_out("full") == 500
    now = 3.0
    assert limit.left_out("full") == 0


@pytest.mark.parametrize("kinds", [5000])
def test_kinds_are_not_remembered_for_ever(kinds: int) -> None:
    now = 0.0
    limit = OncePerSecond(lambda: now)
    for number in range(kinds):
        now += 0.01
        limit.left_out(str(number))
    assert len(limit._kinds) <= 1024

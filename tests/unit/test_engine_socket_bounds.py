"""What the front has of everything, at most, over a fake guest."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from tests.support.engine_sockets import PING, TIMEOUT_S, Client, no_manager, serving
from tests.support.eventually import until

from warmboot.engine_socket.__main__ import log_in
from warmboot.engine_socket.docker_form import Refusal
from warmboot.engine_socket.guest import guest_connections
from warmboot.engine_socket.guest.guest_connections import GuestConnections
from warmboot.engine_socket.limits import IDLE_IN_GUEST, MOST_LOG_BYTES
from warmboot.engine_socket.served_engine import EngineSocket

STREAMS = 500


async def test_five_hundred_streams_go_on_and_one_more_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as it:
        told = await it.connect()
        await told.send(b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n")
        silent: list[Client] = []
        for _ in range(STREAMS - 1):
            client = await it.connect()
            await client.send(b"GET /silent HTTP/1.1\r\nHost: d\r\n\r\n")
            silent.append(client)
        await until(lambda: len(it.guest.asked) == STREAMS)
        monkeypatch.setattr(guest_connections, "ROOM_TIMEOUT_S", 0.05)
        one_more = await it.connect()
        await one_more.send(PING)
        status, body = await one_more.answer()
        assert (status, "the maximum" in json.loads(body)["message"]) == (503, True)
        it.guest.said.put_nowait(b"on it goes")
        it.guest.said.put_nowait(None)
        assert (await told.answer()) == (200, b"on it goes")
        monkeypatch.setattr(guest_connections, "ROOM_TIMEOUT_S", TIMEOUT_S)
        after = await it.connect()
        await after.send(PING)
        assert (await after.answer())[0] == 200, "as soon as one has ended"
        for client in silent:
            client.close()


MOST_UNREAD_BYTES = 16 << 20
"""Far more than sockets and the front keep, and far less than a client could send."""


async def test_a_client_that_sends_and_never_reads_is_not_read_any_more_and_others_go_on() -> None:
    body = b"x" * 100_000
    head = f"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with serving() as it:
        deaf, other, sent = await it.connect(), await it.connect(), 0

        async def send() -> None:
            nonlocal sent
            while True:
                await deaf.send(head + body)
                sent += len(body)

        sending = asyncio.create_task(send())
        before = -1
        while before != sent:  # until no more of it is taken while others are answered often
            before = sent
            for _ in range(20):
                await other.send(PING)
                assert (await other.answer())[0] == 200
            assert sent < MOST_UNREAD_BYTES
        assert sent > 0
        sending.cancel()
        deaf.writer.transport.abort()
        await until(lambda: len(it.front._clients._conversations) == 1)
        other.close()


async def test_kept_connections_are_among_the_five_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_connections, "MOST_IN_GUEST", IDLE_IN_GUEST)
    async with serving() as it:
        connections = GuestConnections("ci", it.guest.endpoint)
        taken = [await connections.take() for _ in range(IDLE_IN_GUEST)]
        for connection in taken:
            await connections.drop(connection)
        for _ in range(IDLE_IN_GUEST):
            assert (await connections.ask("/json"))[0] == 200
        used = [await connections.take(fresh=True) for _ in range(IDLE_IN_GUEST)]
        assert not connections._idle
        for connection in used:
            await connections.drop(connection)


async def test_what_docker_is_asked_by_the_front_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guest_connections, "ASK_TIMEOUT_S", 0.05)
    async with serving() as it:
        with pytest.raises(Refusal, match="no answer within") as refused:
            await GuestConnections("ci", it.guest.endpoint).ask("/silent")
        assert refused.value.status == 504


async def test_who_was_replaced_leaves_its_successors_socket_alone() -> None:
    async with serving() as it:
        successor = EngineSocket(it.engine, lambda: None, no_manager)
        await successor.set(it.engine)
        await it.front.close()
        client = await it.connect()
        await client.send(PING)
        assert (await client.answer())[0] == 200
        await successor.close()


def test_the_log_has_an_end(tmp_path: Path) -> None:
    handler = log_in(tmp_path)
    line = logging.LogRecord("front", logging.ERROR, "", 0, "x" * 1000, (), None)
    for _ in range(3 * MOST_LOG_BYTES // 1000):
        handler.handle(line)
    handler.close()
    kept = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert MOST_LOG_BYTES < kept <= 2 * MOST_LOG_BYTES

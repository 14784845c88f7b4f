"""The socket of a parked engine: whoever asks has it woken, over a fake guest and manager."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.support.engine_sockets import PING, UPGRADE, serving
from tests.support.eventually import until

from warmboot.engine_socket import served_engine


async def test_all_who_ask_a_parked_engine_have_it_woken_once_and_are_answered() -> None:
    asked: list[Mapping[str, Any]] = []
    go_on = asyncio.Event()
    refused = {"refused": "not enough memory: 512 MiB are free"}

    async def manager(call: str, /, **given: Any) -> Mapping[str, Any]:
        assert call == "wake-engine"
        asked.append(given)
        await go_on.wait()
        if len(asked) == 1:
            return refused
        await it.front.set(replace(it.engine, guest=it.guest.endpoint, reason="", wakes=False))
        return {"engine": given["engine"]}

    async with serving(manager=manager) as it:
        await it.front.set(replace(it.engine, guest=None, reason="it is parked", wakes=True))
        assert not it.front.asleep
        clients = [await it.connect() for _ in range(20)]
        for client in clients:
            await client.send(PING)
        await until(lambda: bool(asked))
        clients[0].close()  # it does not wait any more, the others do
        go_on.set()
        for client in clients[1:]:
            status, body = await client.answer()
            assert (status, json.loads(body)["message"]) == (503, refused["refused"])
        clients = [await it.connect() for _ in range(20)]
        for client in clients:
            await client.send(PING)
        for client in clients:
            assert (await client.answer())[0] == 200
        assert asked == [{"engine": "1"}] * 2


async def test_a_request_and_a_stream_are_use_and_a_connection_without_is_not() -> None:
    async with serving() as it:
        await it.front.set(replace(it.engine, guest=it.guest.endpoint))
        client = await it.connect()
        await client.send(PING)
        assert (await client.answer())[0] == 200
        await until(lambda: it.front.unused_s > 0)
        before_s = it.front.unused_s
        await until(lambda: it.front.unused_s > before_s)
        await client.send(UPGRADE)
        assert b"101" in await client.reader.readuntil(b"\r\n\r\n")
        assert it.front.unused_s == 0
        client.close()
        await until(lambda: it.front.unused_s > 0)


async def test_who_asks_while_an_engine_is_being_parked_is_not_cut_off_with_its_vm() -> None:
    parked = asyncio.Event()

    async def manager(call: str, /, **given: Any) -> Mapping[str, Any]:
        await parked.wait()
        await it.front.set(replace(it.engine, guest=it.guest.endpoint, reason="", wakes=False))
        return {"engine": given["engine"]}

    async with serving(manager=manager) as it:
        await it.front.set(replace(it.engine, wakes=True))  # its VM stands still
        client = await it.connect()
        await client.send(PING)
        await it.front.set(replace(it.engine, guest=None, reason="it is parked"))
        parked.set()
        assert (await client.answer())[0] == 200


async def test_who_has_woken_an_engine_that_is_parked_again_at_once_wakes_it_again() -> None:
    asked = 0

    async def manager(call: str, /, **given: Any) -> Mapping[str, Any]:
        nonlocal asked
        asked += 1
        if asked > 1:  # the first time it is parked again before anybody has asked it anything
            running = replace(it.engine, guest=it.guest.endpoint, reason="", wakes=False)
            await it.front.set(running)
        return {"engine": given["engine"]}

    async with serving(manager=manager) as it:
        await it.front.set(replace(it.engine, guest=None, reason="it is parked", wakes=True))
        client = await it.connect()
        await client.send(PING)
        assert (await client.answer())[0] == 200
        assert asked == 2


async def test_an_engine_that_is_parked_again_and_again_is_not_woken_for_ever() -> None:
    asked = 0

    async def manager(call: str, /, **given: Any) -> Mapping[str, Any]:
        nonlocal asked
        asked += 1
        return {"engine": given["engine"]}

    async with serving(manager=manager) as it:
        await it.front.set(replace(it.engine, guest=None, reason="it is parked", wakes=True))
        client = await it.connect()
        await client.send(PING)
        status, body = await client.answer()
        assert (status, json.loads(body)["message"]) == (503, "it is parked")
        assert asked == served_engine.MOST_WAKES


async def test_who_asks_while_a_parked_engine_is_removed_is_told() -> None:
    asked = asyncio.Event()

    async def manager(call: str, /, **given: Any) -> Mapping[str, Any]:
        asked.set()
        await asyncio.Event().wait()  # it waits for the removal, as whoever wants something of it
        raise AssertionError

    async with serving(manager=manager) as it:
        await it.front.set(replace(it.engine, guest=None, reason="it is parked", wakes=True))
        client = await it.connect()
        await client.send(PING)
        await asked.wait()
        closing = asyncio.create_task(it.front.close())
        status, body = await client.answer()
        assert (status, json.loads(body)["message"]) == (503, "the engine ci was removed")
        client.close()
        await closing

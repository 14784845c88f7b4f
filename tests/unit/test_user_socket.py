"""A user's default socket of the front, over fake guests: when the manager is asked, and once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine_sockets import (
    PING,
    TIMEOUT_S,
    Client,
    Served,
    serving,
    vmm_process,
)
from tests.support.eventually import until

from warmboot.engine_socket import front as front_module
from warmboot.engine_socket.docker_form import Refusal
from warmboot.engine_socket.front import Front
from warmboot.engine_socket.served_engine import EngineSocket
from warmboot.engine_socket.user_socket import UserSocket
from warmboot.model.conventions.engine_front import CONTROL_SOCKET, DefaultSocket

UID = os.geteuid()


async def awake() -> Mapping[str, Any]:
    return {"engine": "1"}


@dataclass
class User:
    """A default socket, the engine behind it, and what the manager was asked for."""

    engine: Served
    socket: UserSocket
    path: Path
    wake: Callable[[], Awaitable[Mapping[str, Any]]] = awake
    asked: list[Mapping[str, Any]] = field(default_factory=list)

    async def connect(self) -> Client:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        return Client(reader, writer)

    async def ask(self, call: str, /, **given: Any) -> Mapping[str, Any]:
        assert call == "wake-engine"
        self.asked.append(given)
        return await self.wake()


@contextlib.asynccontextmanager
async def user_of_an_engine() -> AsyncIterator[User]:
    async with serving() as engine:
        path = engine.path.parents[1] / "users" / f"{UID}.sock"
        wanted = DefaultSocket(UID, os.getegid(), str(path))

        def served(engine_id: str) -> EngineSocket | None:
            return engine.front if engine_id == "1" else None

        async def ask(call: str, /, **given: Any) -> Mapping[str, Any]:
            return await user.ask(call, **given)

        user = User(engine, UserSocket(wanted, served, lambda: None, ask), path)
        await user.socket.set(wanted)
        try:
            yield user
        finally:
            await user.socket.close()
            assert not path.exists()


async def test_all_who_ask_meanwhile_wake_one_engine_and_who_asks_later_none() -> None:
    async with user_of_an_engine() as it:
        go_on = asyncio.Event()

        async def wake() -> Mapping[str, Any]:
            await go_on.wait()
            return {"engine": "1"}

        it.wake = wake
        clients = [await it.connect() for _ in range(5)]
        for client in clients:
            await client.send(PING)
        await until(lambda: bool(it.asked))
        go_on.set()
        for client in clients:
            assert (await client.answer())[0] == 200
        await clients[0].send(PING)
        assert (await clients[0].answer())[0] == 200
        assert it.asked == [{"uid": UID, "gone": False}]


async def test_the_first_connection_makes_the_engine_and_a_later_silent_one_wakes_nobody() -> None:
    async with user_of_an_engine() as it:
        silent = await it.connect()
        await until(lambda: len(it.asked) == 1)
        talks = await it.connect()
        await talks.send(PING)
        assert (await talks.answer())[0] == 200
        await it.engine.front.set(replace(it.engine.engine, guest=None, reason="it is stopped"))
        quiet = await it.connect()
        await talks.send(PING)  # this one wakes it
        await until(lambda: len(it.asked) == 2)
        assert it.asked == [{"uid": UID, "gone": False}, {"uid": UID, "gone": True}]
        for client in (silent, talks, quiet):
            client.close()


async def test_an_engine_that_is_gone_is_woken_by_the_next_request_of_the_same_connection() -> None:
    async with user_of_an_engine() as it, vmm_process() as process:
        guest = it.engine.guest
        guest.pid = process.pid
        await it.engine.front.set(replace(it.engine.engine, guest=guest.endpoint))
        client = await it.connect()
        await client.send(PING)
        assert (await client.answer())[0] == 200
        process.kill()
        await until(lambda: it.engine.front.asleep)

        async def wake() -> Mapping[str, Any]:
            guest.pid = os.getpid()
            await it.engine.front.set(replace(it.engine.engine, guest=guest.endpoint))
            return {"engine": "1"}

        it.wake = wake
        await client.send(PING)
        assert (await client.answer())[0] == 200
        assert [asked["gone"] for asked in it.asked] == [False, True]


@pytest.mark.parametrize("answer", [{"refused": "no room"}, {"engine": "2"}], ids=["words", "gone"])
async def test_why_it_cannot_be_woken_is_said_in_dockers_form_and_it_is_tried_again(
    answer: Mapping[str, Any],
) -> None:
    async with user_of_an_engine() as it:

        async def refuse() -> Mapping[str, Any]:
            return answer

        it.wake = refuse
        client = await it.connect()
        await client.send(PING)
        status, body = await client.answer()
        assert (status, list(json.loads(body))) == (503, ["message"])
        assert answer.get("refused", "removed before") in json.loads(body)["message"]
        it.wake = awake
        client = await it.connect()
        await client.send(PING)
        assert (await client.answer())[0] == 200


async def test_the_default_socket_in_a_mount_means_the_engines_own_docker() -> None:
    async with user_of_an_engine() as it:
        client = await it.connect()
        body = json.dumps({"HostConfig": {"Binds": [f"{it.path}:/var/run/docker.sock"]}}).encode()
        head = f"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n"
        await client.send(head.encode() + body)
        assert (await client.answer())[0] == 200
        sent = json.loads(it.engine.guest.asked[-1].body)
        assert sent["HostConfig"]["Binds"] == ["/var/run/docker.sock:/var/run/docker.sock"]


async def test_a_socket_that_is_given_back_keeps_nobody_waiting() -> None:
    async with user_of_an_engine() as it:

        async def never() -> Mapping[str, Any]:
            await asyncio.Event().wait()
            return {}

        it.wake = never
        client = await it.connect()
        await client.send(PING)
        await until(lambda: bool(it.asked))
        await it.socket.close()
        assert await client.rest() == b""


async def test_without_a_manager_it_is_said_that_one_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_module, "MANAGER_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(tmp_path / CONTROL_SOCKET))
        async with asyncio.timeout(TIMEOUT_S):
            with pytest.raises(Refusal, match="does not run, and to start it needs") as refused:
                await Front(control, "").ask_manager("wake-engine", uid=UID, gone=False)
        assert refused.value.status == 503

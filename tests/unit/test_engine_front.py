"""The manager and the front of the engines' sockets, when the other one is slow or gone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine_sockets import vmm_process

from warmboot.engine_socket.front import Front
from warmboot.host import engine_front
from warmboot.host.engine_front import EngineFront
from warmboot.model.conventions.engine_front import (
    CODE,
    CONTROL_SOCKET,
    PROCESS_FILE,
    ServedEngine,
)
from warmboot.system.call_channel import MOST_LINE_BYTES, CallChannel, ChannelClosed
from warmboot.system.hashing import code_digest
from warmboot.system.procfs import start_ticks

TIMEOUT_S = 60.0


def engine(name: str) -> ServedEngine:
    return ServedEngine(name, name, f"/proc/none/{name}.sock", os.geteuid(), os.getegid())


async def test_engines_may_come_while_a_front_is_told_of_those_that_there_are(
    tmp_path: Path,
) -> None:
    served: list[str] = []
    telling, go_on = asyncio.Event(), asyncio.Event()

    async def serve(call: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if call == "hello":
            return {"version": "1", "code": code_digest(CODE)}
        if call == "list":
            return {"ids": [], "uids": []}
        telling.set()
        await go_on.wait()
        served.append(given["id"])
        return {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await CallChannel(reader, writer, serve).run()

    control = str(tmp_path / CONTROL_SOCKET)
    server = await asyncio.start_unix_server(accept, control, limit=MOST_LINE_BYTES)
    front = EngineFront(tmp_path, None)
    async with server, asyncio.timeout(TIMEOUT_S):
        first = asyncio.create_task(front.serve(engine("one")))
        await telling.wait()
        second = asyncio.create_task(front.serve(engine("two")))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, second)
        assert set(served) == {"one", "two"}
        await front.stop()


class Channel:
    """A manager's, which is closed after ``left`` calls; more than some are one too many."""

    def __init__(self, *, closed: bool) -> None:
        self.closed = closed
        self.calls = 0

    async def call(self, _: str, /, **__: Any) -> Mapping[str, Any]:
        self.calls += 1
        assert self.calls < 100, "asked without a pause"
        if self.closed:
            raise ChannelClosed("the other side is gone")
        return {"here": True}


async def test_a_manager_that_goes_is_waited_for_and_stops_nobody_meanwhile(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(tmp_path / CONTROL_SOCKET))
        front, gone = Front(control, ""), Channel(closed=True)
        managers: list[Any] = front._managers
        managers.append(gone)
        front._manager_came.set()
        async with asyncio.timeout(TIMEOUT_S):
            asking = asyncio.create_task(front.ask_manager("anything"))
            while not gone.calls:  # noqa: ASYNC110
                await asyncio.sleep(0)
            managers.append(Channel(closed=False))
            assert await asking == {"here": True}


@pytest.mark.parametrize(("later", "code"), [(0, -signal.SIGKILL), (1, None)], ids=["it", "other"])
async def test_a_front_that_hangs_is_ended_and_nobody_who_has_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: int, code: int | None
) -> None:
    monkeypatch.setattr(engine_front, "ANSWER_TIMEOUT_S", 0.05)
    async with vmm_process() as process:
        start = start_ticks(process.pid) + later
        (tmp_path / PROCESS_FILE).write_text(f"{process.pid} {start}\n")
        with socket.socket(socket.AF_UNIX) as control:
            control.bind(str(tmp_path / CONTROL_SOCKET))
            control.listen()  # and nobody answers
            front = EngineFront(tmp_path, None)
            assert await front.adopt() == ((), ())
            await front.stop()
        if code is not None:
            async with asyncio.timeout(TIMEOUT_S):
                await process.wait()
        assert process.returncode == code

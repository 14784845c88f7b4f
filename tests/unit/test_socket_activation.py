"""Connections to a paused worker are held, however many, and carried on when it is back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.support.absent import ABSENT
from tests.support.ports import free_port
from typing_extensions import override

from warmboot.manager.core.event_log import EventLog
from warmboot.manager.workers.socket_activation import WorkerActivation
from warmboot.model.errors import CheckpointError
from warmboot.model.journal.event import Event
from warmboot.model.worker import ListenAddress, Worker, WorkerSpec, WorkerState
from warmboot.system.on_demand import socket_activation
from warmboot.system.on_demand.socket_activation import SocketActivation, _Listeners


class Events(EventLog):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__(ABSENT)
        self.told: list[str] = []

    @override
    async def emit(self, kind: str, subject_id: object, **data: Any) -> Event:
        self.told.append(kind)
        return Event(len(self.told), datetime.now(UTC), kind, str(subject_id), data)


class Paused:
    """A worker that answers each connection with ``hello`` once it runs."""

    def __init__(self) -> None:
        self.port = free_port()
        self.worker = Worker(
            id=uuid4(),
            spec=WorkerSpec("w1", "app:1"),
            state=WorkerState.PAUSED,
            created_at=datetime.now(UTC),
            listens=(ListenAddress("127.0.0.1", self.port),),
        )
        self.events = Events()
        self.wake = WorkerActivation(self.events, self._wake)
        self.may_run = asyncio.Event()
        self.fails = False
        self._server: asyncio.Server | None = None

    async def _wake(self, worker_id: UUID) -> None:
        assert worker_id == self.worker.id
        await self.may_run.wait()
        if self.fails:
            raise CheckpointError("it does not want to")
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", self.port, reuse_port=True
            )
            await self.wake.follow(replace(self.worker, state=WorkerState.RUNNING))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def asked(self) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            return await reader.read()
        finally:
            writer.close()

    async def stop(self) -> None:
        await self.wake.stop()
        if self._server is not None:
            self._server.close()


@pytest.fixture
async def paused() -> AsyncIterator[Paused]:
    it = Paused()
    await it.wake.follow(it.worker)
    try:
        yield it
    finally:
        await it.stop()


async def _turns(for_s: float) -> int:
    """How often the loop comes round in that time when nobody keeps it busy."""
    loop, turns = asyncio.get_running_loop(), 0
    end = loop.time() + for_s
    while loop.time() < end:
        turns += 1
        await asyncio.sleep(0.01)  # a turn of ours, too
    return turns


async def test_more_than_can_be_held_wait_in_the_queue_and_keep_nobody_busy(
    paused: Paused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_activation, "MAX_HELD", 2)
    calls = 0
    accept = SocketActivation._accept

    def counting(self: SocketActivation, listeners: _Listeners, opened: socket.socket) -> None:
        nonlocal calls
        calls += 1
        accept(self, listeners, opened)

    monkeypatch.setattr(SocketActivation, "_accept", counting)
    asking = [asyncio.create_task(paused.asked()) for _ in range(6)]
    await _turns(0.3)
    assert calls < 10
    paused.may_run.set()
    async with asyncio.timeout(60):
        assert await asyncio.gather(*asking) == [b"hello"] * 6


async def test_when_waking_fails_those_that_wait_have_their_turn(
    paused: Paused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_activation, "MAX_HELD", 2)
    paused.fails = True
    paused.may_run.set()
    async with asyncio.timeout(60):
        assert await asyncio.gather(*(paused.asked() for _ in range(6))) == [b""] * 6
    paused.fails = False
    async with asyncio.timeout(60):
        assert await paused.asked() == b"hello"


async def test_a_machine_without_descriptors_tries_again_later(
    paused: Paused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_activation, "LISTEN_AGAIN_S", 0.1)
    refused = 0
    take = socket.socket.accept

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        nonlocal refused
        if self.getsockname()[1] == paused.port and refused < 2:
            refused += 1
            raise OSError(errno.EMFILE, "too many open files")
        return take(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    paused.may_run.set()
    async with asyncio.timeout(60):
        assert await paused.asked() == b"hello"
    assert refused == 2


async def test_a_port_that_is_taken_is_told() -> None:
    it = Paused()
    with socket.socket() as other:
        other.bind(("127.0.0.1", it.port))
        other.listen()
        await it.wake.follow(it.worker)
        assert it.events.told == ["worker.wake-unavailable"]
        await it.stop()


async def test_one_that_runs_by_the_time_that_it_is_told_is_listened_for_no_more() -> None:
    it = Paused()
    free = ListenAddress("127.0.0.1", free_port())
    worker = replace(it.worker, listens=(*it.worker.listens, free))

    class Late(Events):
        @override
        async def emit(self, kind: str, subject_id: object, **data: Any) -> Event:
            await it.wake.follow(replace(worker, state=WorkerState.RUNNING))
            return await super().emit(kind, subject_id, **data)

    it.events = Late()
    it.wake = WorkerActivation(it.events, it._wake)
    with socket.socket() as other:
        other.bind(("127.0.0.1", it.port))
        other.listen()
        await it.wake.follow(worker)
    assert it.events.told == ["worker.wake-unavailable"]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(free.host, free.port)
    await it.stop()


async def test_at_the_end_what_is_held_is_cut_off(paused: Paused) -> None:
    asking = asyncio.create_task(paused.asked())
    await asyncio.sleep(0.1)  # until it is held
    await paused.wake.stop()
    with contextlib.suppress(ConnectionResetError):
        assert await asking == b""
    with pytest.raises(ConnectionRefusedError):
        await paused.asked()

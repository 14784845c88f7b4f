"""Socket activation: a TCP connection to a port on which a paused worker listened resumes it.

    paused ──▶ we listen where it did ──▶ a connection is held ──▶ wake
                                                                    │
    running ◀── port released ◀── the worker listens again ◀── resuming
       │
       └──▶ each held connection is carried on to the worker

With the host's network the port is the worker's own, and free while it is paused. It is shared
(``SO_REUSEPORT``, which CRIU sets too while it restores a socket) until the worker runs, so that no
moment is left in which nobody listens. Connections that were taken here go through this process for
as long as they live; later ones reach the worker directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from warmboot.manager.core.event_log import EventLog
from warmboot.model.errors import WarmbootError
from warmboot.model.worker import ListenAddress, Worker, WorkerState
from warmboot.system.concurrency import end
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

MAX_HELD = 512
"""Connections held for one worker; further ones wait in the kernel's queue."""

LISTEN_AGAIN_S = 1.0
"""After this machine could not take a connection, for want of descriptors, say."""

CONNECT_TIMEOUT_S = 15.0
CONNECT_AGAIN_S = 0.02
_CHUNK = 1 << 16
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}

Wake = Callable[[UUID], Awaitable[None]]


@dataclass(slots=True)
class _Listeners:
    """The listening sockets of one paused worker."""

    worker_id: UUID
    sockets: dict[socket.socket, ListenAddress] = field(default_factory=dict)
    held: int = 0


class SocketActivation:
    """``wake`` resumes a worker and returns when it runs; an error when it does not."""

    def __init__(self, events: EventLog, wake: Wake) -> None:
        self._events = events
        self._wake = wake
        self._listeners: dict[UUID, _Listeners] = {}
        self._carried: set[asyncio.Task[None]] = set()

    async def follow(self, worker: Worker) -> None:
        """Listen for a worker that is paused, and for no other."""
        if worker.state is WorkerState.PAUSED and worker.listens:
            await self._listen(worker)
        elif worker.state is not WorkerState.RESUMING:
            self._release(worker.id)

    async def stop(self) -> None:
        """Give back all ports; what is held or carried is cut off."""
        for worker_id in list(self._listeners):
            self._release(worker_id)
        await end(*self._carried)

    async def _listen(self, worker: Worker) -> None:
        if worker.id in self._listeners:
            return
        listeners = self._listeners[worker.id] = _Listeners(worker.id)
        for address in worker.listens:
            try:
                opened = _open(address, worker.listens)
            except OSError as error:
                log.warning("a paused worker's port is taken", worker=worker.name, why=str(error))
                await self._events.emit(
                    "worker.wake-unavailable",
                    worker.id,
                    name=worker.name,
                    address=f"{address.host}:{address.port}",
                    why=str(error),
                )
                continue
            listeners.sockets[opened] = address
            asyncio.get_running_loop().add_reader(opened, self._accept, listeners, opened)

    def _release(self, worker_id: UUID) -> None:
        """Take what waits in the kernel's queues, then let go of the ports."""
        listeners = self._listeners.pop(worker_id, None)
        if listeners is None:
            return
        for opened in listeners.sockets:
            asyncio.get_running_loop().remove_reader(opened)
            self._take(listeners, opened, limit=None)
            opened.close()

    def _accept(self, listeners: _Listeners, opened: socket.socket) -> None:
        """Called while connections wait; so it must not be called when they have to go on waiting.

        ``_hold`` or the clock calls it again then.
        """
        loop = asyncio.get_running_loop()
        if (
            opened not in listeners.sockets
            or self._listeners.get(listeners.worker_id) is not listeners
        ):
            return
        if not self._take(listeners, opened, MAX_HELD):
            loop.remove_reader(opened)
            loop.call_later(LISTEN_AGAIN_S, self._accept, listeners, opened)
        elif listeners.held >= MAX_HELD:
            loop.remove_reader(opened)
        else:
            loop.add_reader(opened, self._accept, listeners, opened)

    def _take(self, listeners: _Listeners, opened: socket.socket, limit: int | None) -> bool:
        """Take what waits in the kernel's queue; whether nothing was in the way of that."""
        address = listeners.sockets[opened]
        while limit is None or listeners.held < limit:
            try:
                connection, _ = opened.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return True
            except OSError as error:
                log.warning("a connection could not be taken", why=str(error))
                return False
            connection.setblocking(False)
            listeners.held += 1
            task = asyncio.get_running_loop().create_task(
                self._hold(listeners, address, connection)
            )
            self._carried.add(task)
            task.add_done_callback(self._carried.discard)
        return True

    async def _hold(
        self, listeners: _Listeners, address: ListenAddress, connection: socket.socket
    ) -> None:
        with on_failure(lambda: self._let_go(listeners)), on_failure(connection.close):
            reader, writer = await asyncio.open_connection(sock=connection)
        try:
            await self._wake(listeners.worker_id)
            to_reader, to_writer = await _connected(address)
        except (WarmbootError, OSError) as error:
            log.warning(
                "a held connection is given up", worker=str(listeners.worker_id), why=str(error)
            )
            writer.transport.abort()
            return
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            self._let_go(listeners)
        try:
            await asyncio.gather(_carry(reader, to_writer), _carry(to_reader, writer))
        finally:
            writer.transport.abort()
            to_writer.transport.abort()

    def _let_go(self, listeners: _Listeners) -> None:
        """One connection less; whoever waits in the kernel's queues may be next."""
        listeners.held -= 1
        if listeners.held == MAX_HELD - 1:
            for opened in listeners.sockets:
                self._accept(listeners, opened)


def _open(address: ListenAddress, others: tuple[ListenAddress, ...]) -> socket.socket:
    six = ":" in address.host
    opened = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM)
    with on_failure(opened.close):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if six:
            four = any(o.port == address.port and ":" not in o.host for o in others)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(four))
        opened.setblocking(False)
        opened.bind((address.host, address.port))
        opened.listen(MAX_HELD)
    return opened


async def _connected(address: ListenAddress) -> tuple[Any, asyncio.StreamWriter]:
    """A connection to the worker, which may need a moment until it listens."""
    host = _WILDCARDS.get(address.host, address.host)
    deadline = asyncio.get_running_loop().time() + CONNECT_TIMEOUT_S
    while True:
        try:
            return await asyncio.open_connection(host, address.port)
        except ConnectionRefusedError:
            if asyncio.get_running_loop().time() >= deadline:
                raise
            await asyncio.sleep(CONNECT_AGAIN_S)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, its end included; the other one may go on."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

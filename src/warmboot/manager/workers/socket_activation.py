"""A TCP connection to a port on which a paused worker listened resumes it.

    paused ──▶ we listen where it did ──▶ a connection is held ──▶ wake
                                                                    │
    running ◀── port released ◀── the worker listens again ◀── resuming
       │
       └──▶ each held connection is carried on to the worker

With the host's network the port is the worker's own, and free while it is paused. It is shared
(``SO_REUSEPORT``, which CRIU sets too while it restores a socket) until the worker runs, so that no
moment is left in which nobody listens.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID

import structlog

from warmboot.manager.core.event_log import EventLog
from warmboot.model.worker import ListenAddress, Worker, WorkerState
from warmboot.system.on_demand.socket_activation import MAX_HELD, SocketActivation
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

Wake = Callable[[UUID], Awaitable[None]]


class WorkerActivation:
    """``wake`` resumes a worker and returns when it runs; an error when it does not."""

    def __init__(self, events: EventLog, wake: Wake) -> None:
        self._events = events
        self._wake = wake
        self._activation = SocketActivation()

    async def follow(self, worker: Worker) -> None:
        """Listen for a worker that is paused, and for no other."""
        if worker.state is WorkerState.PAUSED and worker.listens:
            await self._listen(worker)
        elif worker.state is not WorkerState.RESUMING:
            self._activation.release(worker.id)

    async def stop(self) -> None:
        """Give back all ports; what is held or carried is cut off."""
        await self._activation.stop()

    async def _listen(self, worker: Worker) -> None:
        if self._activation.is_listening(worker.id):
            return
        listening: dict[socket.socket, ListenAddress] = {}
        taken: dict[ListenAddress, str] = {}
        for address in worker.listens:
            try:
                listening[_open(address, worker.listens)] = address
            except OSError as error:
                taken[address] = str(error)
        # All before anything is awaited: the worker may run by then.
        self._activation.listen(worker.id, partial(self._wake, worker.id), listening)
        for address, why in taken.items():
            log.warning("a paused worker's port is taken", worker=worker.name, why=why)
            await self._events.emit(
                "worker.wake-unavailable",
                worker.id,
                name=worker.name,
                address=f"{address.host}:{address.port}",
                why=why,
            )


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

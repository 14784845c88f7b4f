"""Socket activation: a connection to a port of somebody who sleeps wakes him, and is answered then.

    listening ──▶ a connection is held ──▶ wake ──▶ it runs, and answers at that address itself
                                                      │
    each held connection is carried on to it  ◀──  released, and given back

Connections that were taken here go through this process for as long as they live; later ones reach
who has been woken directly. A datagram wakes, too, and is lost, as datagrams may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from warmboot.model.errors import WarmbootError
from warmboot.model.worker import ListenAddress
from warmboot.system.back_off import BackOff
from warmboot.system.concurrency import end
from warmboot.system.on_demand.once_for_all import OnceForAll
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

MAX_HELD = 512
"""Connections held for one owner; further ones wait in the kernel's queue."""

LISTEN_AGAIN_S = 1.0
"""After this machine could not take a connection, for want of descriptors, say."""

WAKE_AGAIN_S, LONGEST_WAKE_AGAIN_S = 1.0, 60.0
"""After a wake for a datagram has failed: senders do not learn of that, and go on."""

CONNECT_TIMEOUT_S = 15.0
CONNECT_AGAIN_S = 0.02
_CHUNK = 1 << 16
_MOST_DATAGRAMS = 64
"""Thrown away at a time."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}

Wake = Callable[[], Awaitable[None]]
"""Returns when its owner runs; ``WarmbootError`` when it does not."""


@dataclass(slots=True)
class _Listeners:
    """The sockets of one owner."""

    owner: Hashable
    wake: Wake
    give_back: Callable[[socket.socket], None]
    sockets: dict[socket.socket, ListenAddress] = field(default_factory=dict)
    held: int = 0
    waking: OnceForAll[None] = field(default_factory=OnceForAll)
    pauses: BackOff = field(default_factory=lambda: BackOff(WAKE_AGAIN_S, LONGEST_WAKE_AGAIN_S))


class SocketActivation:
    """``listen`` for an owner, any number of times, and ``release`` what was his; ``stop``."""

    def __init__(self) -> None:
        self._listeners: dict[Hashable, _Listeners] = {}
        self._carried: set[asyncio.Task[None]] = set()
        self.stopped = False

    def is_listening(self, owner: Hashable) -> bool:
        return owner in self._listeners

    def listen(
        self,
        owner: Hashable,
        wake: Wake,
        sockets: Mapping[socket.socket, ListenAddress],
        give_back: Callable[[socket.socket], None] = socket.socket.close,
    ) -> None:
        """``sockets`` listen, or are bound, if they are for datagrams; and where their owner
        answers when it runs. Known ones are left alone."""
        listeners = self._listeners.setdefault(owner, _Listeners(owner, wake, give_back))
        loop = asyncio.get_running_loop()
        for opened, address in sockets.items():
            if opened in listeners.sockets:
                continue
            opened.setblocking(False)
            listeners.sockets[opened] = address
            if opened.type is socket.SOCK_STREAM:
                loop.add_reader(opened, self._accept, listeners, opened)
            else:
                loop.add_reader(opened, self._datagram, listeners, opened)

    def release(self, owner: Hashable) -> None:
        """Take what waits in the kernel's queues, then give the sockets back. Idempotent."""
        listeners = self._listeners.pop(owner, None)
        if listeners is None:
            return
        for opened in listeners.sockets:
            if opened.fileno() < 0:  # its port is another's by now
                continue
            asyncio.get_running_loop().remove_reader(opened)
            if opened.type is socket.SOCK_STREAM:
                self._take(listeners, opened, limit=None)
            listeners.give_back(opened)

    async def stop(self) -> None:
        """Give all back; what is held or carried is cut off, and who is being woken is not."""
        self.stopped = True
        for owner in list(self._listeners):
            self.release(owner)
        await end(*self._carried)

    def _accept(self, listeners: _Listeners, opened: socket.socket) -> None:
        """Called while connections wait; so it must not be called when they have to go on waiting.

        ``_hold`` or the clock calls it again then.
        """
        loop = asyncio.get_running_loop()
        if not self._is_listening(listeners, opened):
            return
        if not self._take(listeners, opened, MAX_HELD):
            loop.remove_reader(opened)
            loop.call_later(LISTEN_AGAIN_S, self._accept, listeners, opened)
        elif listeners.held >= MAX_HELD:
            loop.remove_reader(opened)
        else:
            loop.add_reader(opened, self._accept, listeners, opened)

    def _is_listening(self, listeners: _Listeners, opened: socket.socket) -> bool:
        known = self._listeners.get(listeners.owner) is listeners
        return known and opened in listeners.sockets and opened.fileno() >= 0

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
            # Begun here: who is taken at the end of a wake is of those that it was for.
            waking = self._begin(listeners)
            self._do(asyncio.create_task(self._hold(listeners, address, connection, waking)))
        return True

    def _do(self, task: asyncio.Task[None]) -> None:
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    def _datagram(self, listeners: _Listeners, opened: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(_MOST_DATAGRAMS):
                opened.recv(1)
        if not listeners.waking.under_way:
            self._do(asyncio.create_task(self._wake_for_datagram(listeners)))

    async def _wake_for_datagram(self, listeners: _Listeners) -> None:
        try:
            await asyncio.shield(self._begin(listeners))
        except WarmbootError:  # it was logged
            self._look_away(listeners)

    def _look_away(self, listeners: _Listeners) -> None:
        """From datagrams, for a while. One that comes meanwhile wakes after that."""
        loop, pause_s = asyncio.get_running_loop(), listeners.pauses.take_s()
        for opened in listeners.sockets:
            if opened.type is socket.SOCK_DGRAM and self._is_listening(listeners, opened):
                loop.remove_reader(opened)
                loop.call_later(pause_s, self._look_again, listeners, opened)

    def _look_again(self, listeners: _Listeners, opened: socket.socket) -> None:
        if self._is_listening(listeners, opened):
            asyncio.get_running_loop().add_reader(opened, self._datagram, listeners, opened)

    def _begin(self, listeners: _Listeners) -> asyncio.Task[None]:
        waking = listeners.waking.begin(lambda: _wake(listeners))
        self._do(waking)
        return waking

    async def _hold(
        self,
        listeners: _Listeners,
        address: ListenAddress,
        connection: socket.socket,
        waking: asyncio.Task[None],
    ) -> None:
        with on_failure(lambda: self._let_go(listeners)), on_failure(connection.close):
            reader, writer = await asyncio.open_connection(sock=connection)
        try:
            await asyncio.shield(waking)
            to_reader, to_writer = await _connected(address)
        except (WarmbootError, OSError) as error:
            log.warning("a held connection is given up", of=str(listeners.owner), why=str(error))
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
                if opened.type is socket.SOCK_STREAM:
                    self._accept(listeners, opened)


async def _wake(listeners: _Listeners) -> None:
    try:
        await listeners.wake()
    except WarmbootError as error:
        why = ": ".join(part for part in (error.brief, error.details) if part)
        log.warning("who was wanted was not woken", of=str(listeners.owner), why=why)
        raise


async def _connected(address: ListenAddress) -> tuple[Any, asyncio.StreamWriter]:
    """A connection to who was woken, and may need a moment until it listens."""
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

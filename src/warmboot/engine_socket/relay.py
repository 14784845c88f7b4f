"""Passes bytes both ways between two connections, until both directions have ended.

A side that ends its sending is passed on as a half-close. Each direction keeps about a chunk while
the other side does not take it. A client that hangs up ends it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from warmboot.engine_socket.limits import CHUNK_BYTES
from warmboot.system.concurrency import end, race


@dataclass(frozen=True, slots=True)
class Stream:
    """A connection, as asyncio has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def begin(self) -> None:
        """What is to be done before it is used. ``ConnectionError``."""

    async def send(self, data: bytes) -> None:
        """Return when it is on its way, or nearly."""
        self.writer.write(data)
        await self.writer.drain()

    async def read(self) -> bytes:
        """Empty at the end; a connection that is broken has ended."""
        try:
            return await self.reader.read(CHUNK_BYTES)
        except ConnectionError:
            return b""

    def end_sending(self) -> None:
        with contextlib.suppress(OSError):
            if self.writer.can_write_eof():
                self.writer.write_eof()

    def abort(self) -> None:
        self.writer.transport.abort()

    async def close(self) -> None:
        """What was written is still sent."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def hung_up(self) -> None:
        """Return when the other end is gone altogether, and not only done with its sending."""
        sock = self.writer.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return
        with _hang_ups(sock) as gone:
            await gone.wait()


@contextlib.contextmanager
def _hang_ups(sock: socket.socket) -> Iterator[asyncio.Event]:
    """The loop does not tell, once it has seen the end of what is sent to us."""
    gone, loop = asyncio.Event(), asyncio.get_running_loop()
    with select.epoll() as poll:
        poll.register(sock.fileno(), 0)  # a hang-up is told without being asked for
        loop.add_reader(poll.fileno(), gone.set)
        try:
            yield gone
        finally:
            loop.remove_reader(poll.fileno())


async def relay(client: Stream, guest: Stream, last_words: Callable[[], bytes]) -> None:
    """Neither is closed at the end, but both have ended, or one is no more.

    ``last_words`` are said to the client after the last that the guest said.
    """
    there = asyncio.create_task(_pass(client, guest))
    back = asyncio.create_task(_pass(guest, client, last_words))

    async def client_gone() -> None:
        await client.hung_up()
        await asyncio.wait({there})  # what it sent before is still passed on

    async def guest_gone() -> None:
        await asyncio.wait({back})
        if not guest.writer.is_closing():  # it has ended its sending, and may still listen
            await asyncio.wait({there})

    try:
        done, *_ = await race(asyncio.gather(there, back), client_gone(), guest_gone())
        if done is not None:
            done.result()
    except ConnectionError:
        return
    finally:
        await end(there, back)


async def _pass(
    source: Stream, sink: Stream, last_words: Callable[[], bytes] = lambda: b""
) -> None:
    while data := await source.read():
        await sink.send(data)
    if words := last_words():
        await sink.send(words)
    sink.end_sending()

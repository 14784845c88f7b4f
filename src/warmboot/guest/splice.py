"""Joins two sockets: what comes in on one goes out on the other, in both directions.

    a ──▶ pending ──▶ b       a side that ends its sending is passed on as a half-close;
    a ◀── pending ◀── b       the splice is over when both directions have ended

One thread does both directions with ``poll``, so that a splice costs no second thread. A side is
read only while the other takes what it gets: memory is bounded and pressure goes back.
"""

from __future__ import annotations

import select
import socket

_CHUNK = 256 << 10
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class _Flow:
    """One direction. ``ended``: the source has no more; ``closed``: and the sink was told."""

    def __init__(self, source: socket.socket, sink: socket.socket, pending: bytes) -> None:
        self.source = source
        self.sink = sink
        self.pending = memoryview(pending)
        self.ended = False
        self.closed = False

    def read(self) -> None:
        try:
            data = self.source.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.pending = memoryview(data)
        self.ended = not data

    def write(self) -> None:
        """Send as much as goes at once, and perhaps the end."""
        try:
            while self.pending:
                self.pending = self.pending[self.sink.send(self.pending) :]
            if self.ended and not self.closed:
                self.closed = True
                self.sink.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self.stop()

    def stop(self) -> None:
        """Nobody takes what comes this way any more."""
        self.pending = memoryview(b"")
        self.ended = self.closed = True


class _Side:
    """One socket, with the flow out of it and the flow into it."""

    def __init__(self, sock: socket.socket, outgoing: _Flow, incoming: _Flow) -> None:
        self.sock = sock
        self.reads = outgoing
        self.writes = incoming
        self.watched: int | None = None

    def wanted(self) -> int | None:
        """The events to poll for; ``None`` for not at all.

        Hang-ups are always reported, so a side that is only waiting for the other to take its
        data must not be polled: one that has hung up would wake us for ever.
        """
        events = 0
        if self.writes.pending:
            events |= select.POLLOUT
        if not self.reads.ended and not self.reads.pending:
            events |= select.POLLIN
        if events or (self.reads.ended and not self.writes.closed):
            return events
        return None

    def handle(self, event: int) -> None:
        if not self.reads.ended and not self.reads.pending:
            self.reads.read()
        elif event & _GONE and self.reads.ended:
            self.writes.stop()


def splice(a: socket.socket, b: socket.socket, to_b: bytes = b"") -> None:
    """Join ``a`` and ``b`` until both have ended; ``to_b`` was already read from ``a``.

    Broken connections end it too. Closes neither socket.
    """
    a.setblocking(False)
    b.setblocking(False)
    there, back = _Flow(a, b, to_b), _Flow(b, a, b"")
    sides = {a.fileno(): _Side(a, there, back), b.fileno(): _Side(b, back, there)}
    poll = select.poll()
    while True:
        there.write()
        back.write()
        if there.closed and back.closed:
            return
        for descriptor, side in sides.items():
            wanted = side.wanted()
            if wanted == side.watched:
                continue
            if wanted is None:
                poll.unregister(descriptor)
            else:
                poll.register(descriptor, wanted)
            side.watched = wanted
        for descriptor, event in poll.poll():
            sides[descriptor].handle(event)

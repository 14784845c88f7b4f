"""Which connections may take their time, and which makes room."""

from __future__ import annotations

import asyncio
import socket

import pytest
from typing_extensions import override

from warmboot.api.http.connections import Connections, Held, Phase
from warmboot.api.http.limits import HttpLimits


class Transport(asyncio.Transport):
    def __init__(
        self, waiting: int = 0, *, closing: bool = False, end: socket.socket | None = None
    ) -> None:
        super().__init__({"socket": end})
        self.waiting, self.closing, self.aborted = waiting, closing, False

    @override
    def get_write_buffer_size(self) -> int:
        return self.waiting

    @override
    def is_closing(self) -> bool:
        return self.closing

    @override
    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(
    ("phase", "endless", "closing", "stuck"),
    [
        (Phase.REQUEST, False, False, True),
        (Phase.REQUEST, True, False, False),
        (Phase.REQUEST, True, True, True),
        (Phase.IDLE, True, False, True),
        (Phase.SESSION, False, False, False),
        (Phase.SESSION, False, True, True),
    ],
)
def test_only_streams_may_be_read_at_leisure(
    phase: Phase, endless: bool, closing: bool, stuck: bool
) -> None:
    held = Held(Transport(1000, closing=closing), 0, phase, endless=endless)
    assert not held.is_stuck(0, 30)
    assert not held.is_stuck(29, 30)
    assert held.is_stuck(30, 30) is stuck


def test_who_takes_a_little_is_not_stuck() -> None:
    transport = Transport(1000)
    held = Held(transport, 0, Phase.REQUEST)
    for second in range(0, 600, 20):
        transport.waiting -= 1
        assert not held.is_stuck(second, 30)


def test_the_oldest_head_makes_room_before_an_idle_connection_does() -> None:
    held = Connections(HttpLimits(connections=3, surplus=1))
    idle, old, young = (Transport() for _ in range(3))
    for since, transport in enumerate((idle, old, young)):
        held.admit(transport, since)
    found = held.of(idle)
    assert found is not None
    found.enter(Phase.IDLE, 0)
    assert held.admit(Transport(), 9) is not None
    assert (idle.aborted, old.aborted, young.aborted) == (False, True, False)
    assert len(held) == 3


def test_tcp_and_the_unix_socket_are_counted_apart() -> None:
    ends = socket.socketpair()
    held = Connections(HttpLimits(connections=1, surplus=0))
    try:
        by_tcp = held.admit(Transport(), 0)
        assert by_tcp is not None
        by_tcp.enter(Phase.REQUEST, 0)
        assert held.admit(Transport(), 1) is None
        by_socket = held.admit(Transport(end=ends[0]), 1)
        assert by_socket is not None
        assert not by_socket.surplus
    finally:
        for end in ends:
            end.close()


def test_who_was_refused_and_sends_on_makes_room_first() -> None:
    held = Connections(HttpLimits(connections=2, surplus=0))
    head, refused = Transport(), Transport()
    held.admit(head, 0)
    second = held.admit(refused, 1)
    assert second is not None
    second.enter(Phase.REQUEST, 1)
    second.draining = True
    assert held.admit(Transport(), 2) is not None
    assert refused.aborted
    assert not head.aborted

"""What the kernel's connection tracking tells of who is connected to a guest's ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from warmboot.host.network.ports import conntrack
from warmboot.model.usage import ForwardedConnections

GUEST, OTHER = "198.19.0.2", "198.19.0.6"
ESTABLISHED, FIN_WAIT, TIME_WAIT, CLOSE = 3, 4, 7, 8


class Attributes(dict[str, Any]):
    """As pyroute2 has them of a message."""

    def get_attr(self, name: str) -> Any:
        return self.get(name)


def entry(port: int, state: int | None, guest: str = GUEST) -> Attributes:
    """A connection from this port; without a state it is one of UDP."""
    number = socket.IPPROTO_UDP if state is None else socket.IPPROTO_TCP
    ends = Attributes(CTA_IP_V4_SRC="127.0.0.1", CTA_IP_V4_DST="127.0.0.2")
    protocol = Attributes(CTA_PROTO_NUM=number, CTA_PROTO_SRC_PORT=port, CTA_PROTO_DST_PORT=80)
    found = Attributes(
        CTA_TUPLE_ORIG=Attributes(CTA_TUPLE_IP=ends, CTA_TUPLE_PROTO=protocol),
        CTA_TUPLE_REPLY=Attributes(CTA_TUPLE_IP=Attributes(CTA_IP_V4_SRC=guest)),
    )
    if state is not None:
        tcp = Attributes(CTA_PROTOINFO_TCP_STATE=state)
        found["CTA_PROTOINFO"] = Attributes(CTA_PROTOINFO_TCP=tcp)
    return found


class Table:
    """Implements what is asked of pyroute2's socket."""

    entries: tuple[Attributes, ...] = ()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None: ...

    def dump(self, **_: int) -> Iterator[Attributes]:
        return iter(self.entries)


@pytest.mark.parametrize(
    ("state", "is_open"),
    [(ESTABLISHED, True), (FIN_WAIT, True), (None, True), (TIME_WAIT, False), (CLOSE, False)],
)
def test_one_that_has_ended_is_known_for_a_while_and_not_open(
    monkeypatch: pytest.MonkeyPatch, state: int | None, is_open: bool
) -> None:
    monkeypatch.setattr(conntrack, "NFCTSocket", Table)
    monkeypatch.setattr(Table, "entries", (entry(1000, state), entry(2000, ESTABLISHED, OTHER)))
    number = socket.IPPROTO_UDP if state is None else socket.IPPROTO_TCP
    known = frozenset({f"{number} 127.0.0.1:1000 127.0.0.2:80"})
    assert conntrack.connections(GUEST) == ForwardedConnections(is_open, known)
    assert conntrack.connections("198.19.0.10") == ForwardedConnections()

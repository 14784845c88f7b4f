"""A fork's connections: with somebody outside the VM they are its source's, which goes on.

Those among containers stay: both ends are in the fork. All others are ended here as if the peer had
reset them, so that whoever waits for an answer learns at once that none will come.
"""

from __future__ import annotations

import socket

from .netlink import TcpConnection
from .system import System

_ROUTES = "/proc/net/route"
_OUTSIDE = "eth0"
_LOCAL = ("127.0.0.0", 8)
_MAPPED = bytes(10) + b"\xff\xff"

AGENT_PORT = 1024
"""Its own are looked after by the agent itself."""


def forget_link(system: System) -> None:
    """Who was who on it: it is another one now."""
    system.forget_neighbours(_OUTSIDE)


def reset_connections(system: System) -> None:
    """In all network namespaces."""
    inside = [(_number(address), 32 - bits) for address, bits in _inside(system)]
    system.reset_connections(lambda connection: _leads_outside(connection, inside))


def _inside(system: System) -> list[tuple[str, int]]:
    """The networks that are in the VM: Docker's."""
    try:
        lines = system.read_file(_ROUTES).splitlines()[1:]
    except FileNotFoundError:
        lines = []
    found = [_LOCAL]
    for line in lines:
        device, network, gateway, _, _, _, _, mask = line.split()[:8]
        if device != _OUTSIDE and int(gateway, 16) == 0:
            found.append((_address(network), int(mask, 16).bit_count()))
    return found


def _leads_outside(connection: TcpConnection, inside: list[tuple[int, int]]) -> bool:
    """Whether the peer is in none of these networks: their addresses, and how many bits are free.

    IPv6 that is not mapped is in the VM, whose link has none: it is among containers.
    """
    if connection.local_port == AGENT_PORT:
        return False
    peer = connection.peer.removeprefix(_MAPPED)
    number = int.from_bytes(peer, "big")
    return len(peer) == 4 and all((number ^ one) >> free for one, free in inside)


def _number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")


def _address(hex_digits: str) -> str:
    """As the kernel writes addresses there: the bytes as they are, read as a number (proc(5))."""
    return socket.inet_ntoa(int(hex_digits, 16).to_bytes(4, "little"))

"""A fork's connections: with somebody outside the VM they are its source's, which goes on.

Those among containers stay: both ends are in the fork. All others are ended here as if the peer had
reset them, so that whoever waits for an answer learns at once that none will come.

Each network namespace is looked at first, in ``/proc``, as a program that is started costs an
emulated guest a second, and most forks have no such connection.
"""

from __future__ import annotations

import socket

from .system import System

_ROUTES = "/proc/net/route"
_OUTSIDE = "eth0"
_LOCAL = ("127.0.0.0", 8)
_MAPPED = "0000000000000000FFFF0000"
_UNCONNECTED = ("06", "07", "0A")
"""TIME-WAIT, CLOSE and LISTEN, as the kernel numbers them."""

AGENT_PORT = 1024
"""Its own are looked after by the agent itself."""


def reset_connections(system: System) -> None:
    """In all network namespaces; and forget who was who on the link, which is another one."""
    system.run(["/usr/sbin/ip", "neigh", "flush", "dev", _OUTSIDE])
    inside = _inside(system)
    kill = f"ss -K -H -t state connected '{_outside(inside)}'"
    found = [pid for pid, table in system.connections() if _leads_outside(table, inside)]
    if found:
        ended = (f"nsenter --net=/proc/{pid}/ns/net {kill}" for pid in found)
        system.run(["/bin/sh", "-c", "; ".join([*ended, "true"])])


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


def _leads_outside(table: str, inside: list[tuple[str, int]]) -> bool:
    """Whether a connection in ``table``, as proc(5) has it, is with somebody who is not in it."""
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < 4 or ":" not in fields[2] or fields[3] in _UNCONNECTED:
            continue
        port, peer = int(fields[1].rpartition(":")[2], 16), fields[2].rpartition(":")[0]
        if port != AGENT_PORT and not _is_in(peer.removeprefix(_MAPPED), inside):
            return True
    return False


def _is_in(peer: str, networks: list[tuple[str, int]]) -> bool:
    """IPv6 that is not mapped is in the VM, whose link has none: it is among containers."""
    if len(peer) != 8:
        return True
    number = _number(_address(peer))
    return any((number ^ _number(one)) >> (32 - bits) == 0 for one, bits in networks)


def _number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")


def _address(hex_digits: str) -> str:
    """As the kernel writes addresses there: the bytes as they are, read as a number (proc(5))."""
    return socket.inet_ntoa(int(hex_digits, 16).to_bytes(4, "little"))


def _outside(inside: list[tuple[str, int]]) -> str:
    """The same for ss(8), to which an IPv4 network has what is mapped in it, too."""
    peers = " and ".join(f"not dst {network}/{bits}" for network, bits in inside)
    return f"( dst 0.0.0.0/0 and {peers} and not sport = :{AGENT_PORT} )"

"""A fork's connections: with somebody outside the VM they are its source's, which goes on.

Those among containers stay: both ends are in the fork. All others are ended here as if the peer had
reset them, so that whoever waits for an answer learns at once that none will come.
"""

from __future__ import annotations

import socket

from .system import System

_ROUTES = "/proc/net/route"
_OUTSIDE = "eth0"
_LOCAL = "127.0.0.0/8"
AGENT_PORT = 1024
"""Its own are looked after by the agent itself."""


def reset_connections(system: System) -> None:
    """In all network namespaces; and forget who was who on the link, which is another one."""
    system.run(["/usr/sbin/ip", "neigh", "flush", "dev", _OUTSIDE])
    kill = f"ss -K -H -4 -t state connected '{_outside(_inside(system))}'"
    rest = f'for n in /run/docker/netns/*; do [ -e "$n" ] && nsenter --net="$n" {kill}; done'
    system.run(["/bin/sh", "-c", f"{kill}; {rest}; true"])


def _inside(system: System) -> list[str]:
    """The networks that are in the VM: Docker's."""
    try:
        lines = system.read_file(_ROUTES).splitlines()[1:]
    except FileNotFoundError:
        lines = []
    found = [_LOCAL]
    for line in lines:
        device, network, gateway, _, _, _, _, mask = line.split()[:8]
        if device != _OUTSIDE and int(gateway, 16) == 0:
            found.append(f"{_address(network)}/{int(mask, 16).bit_count()}")
    return found


def _address(hex_digits: str) -> str:
    """As the kernel writes addresses there: the bytes as they are, read as a number (proc(5))."""
    return socket.inet_ntoa(int(hex_digits, 16).to_bytes(4, "little"))


def _outside(inside: list[str]) -> str:
    peers = " and ".join(f"not dst {network}" for network in inside)
    return f"( {peers} and not sport = :{AGENT_PORT} )"

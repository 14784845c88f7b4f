"""Reserves host ports for published ports.

The traffic goes by rules, no program of ours touches it. But as long as a port is published, a
socket is bound to it, so that a port taken by any other program is found when it is published, and
any other program finds it taken.

TCP: the socket has ``SO_REUSEADDR``, or connections in TIME_WAIT of an earlier owner would block
it for a minute. Bound alone it would then share the port with any other such socket; only
listening makes the kernel treat it as taken. UDP: bound, without any option, is exclusive.

While the rules are not there, who connects gets as far as that socket, and is sent away at once.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address

from warmboot.model.container import PortMapping
from warmboot.model.errors import Conflict, InvalidRequest, NetworkError
from warmboot.system.on_demand.socket_activation import MAX_HELD

_MAX_PORT = 65_535
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER


class HeldPort:
    """A port that no other program can take until ``close``. Needs a running event loop."""

    def __init__(self, held: socket.socket) -> None:
        self._held = held
        self._is_lent = False
        held.setblocking(False)
        self.take_back()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._held.getsockname()
        return str(host), int(port)

    def lend(self) -> socket.socket:
        """For who does something with those who connect, until ``take_back``. Idempotent."""
        if self._held.type is socket.SOCK_STREAM and not self._is_lent:
            asyncio.get_running_loop().remove_reader(self._held)
            self._held.listen(MAX_HELD)
        self._is_lent = True
        return self._held

    def take_back(self) -> None:
        self._is_lent = False
        if self._held.type is socket.SOCK_STREAM:
            asyncio.get_running_loop().add_reader(self._held, self._send_away)

    def close(self) -> None:
        """Idempotent."""
        if self._held.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._held)
            self._held.close()

    def _send_away(self) -> None:
        try:
            connected, _ = self._held.accept()
        except OSError:  # it has given up, or there is no descriptor left
            return
        with connected:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def check(mapping: PortMapping, default_address: str, *, same_inside: bool = False) -> PortMapping:
    """The mapping with its address filled in. ``InvalidRequest`` for what can never be.

    ``same_inside``: a port of 0 in the guest is to be the same as on the host.
    """
    lowest = 0 if same_inside else 1
    if mapping.protocol not in ("tcp", "udp"):
        raise InvalidRequest(
            f"the protocol {mapping.protocol!r} cannot be published", resolution="use tcp or udp"
        )
    if not lowest <= mapping.container_port <= _MAX_PORT or not 0 <= mapping.host_port <= _MAX_PORT:
        raise InvalidRequest(
            f"no valid ports: {mapping.host_port}:{mapping.container_port}",
            resolution="use 1 to 65535; a host port of 0 takes a free one",
        )
    try:
        address = IPv4Address(mapping.host_ip or default_address)
    except AddressValueError as error:
        raise InvalidRequest(
            f"{mapping.host_ip!r} is not an IPv4 address",
            details=str(error),
            resolution="use an address of this host, or 0.0.0.0 for all of them",
        ) from error
    return replace(mapping, host_ip=str(address))


def reserve(mapping: PortMapping) -> tuple[HeldPort, PortMapping]:
    """The port, held, and the mapping with the real ``host_port``.

    ``Conflict`` when it is taken, ``InvalidRequest`` when the address is not this host's.
    """
    tcp = mapping.protocol == "tcp"
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    try:
        if tcp:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((mapping.host_ip, mapping.host_port))
        if tcp:
            held.listen(0)
    except OSError as error:
        held.close()
        raise _translated(error, mapping) from error
    real = replace(mapping, host_port=held.getsockname()[1])
    return HeldPort(held), real


def taken_error(mapping: PortMapping, holder: str = "") -> Conflict:
    """``holder`` is who has it, if that is known."""
    return Conflict(
        f"port {mapping.host_end} is already taken on this host",
        details=f"{holder} has it"
        if holder
        else f"`ss -lnp sport = :{mapping.host_port}` shows by which program",
        resolution="publish on another host port, or on 0 for any free one; or stop what has it",
    )


def _translated(error: OSError, mapping: PortMapping) -> Conflict | InvalidRequest | NetworkError:
    if error.errno == errno.EADDRINUSE:
        return taken_error(mapping)
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidRequest(
            f"{mapping.host_ip} is not an address of this host",
            resolution="use one that `ip address` shows, or 0.0.0.0 for all of them",
        )
    return NetworkError(f"cannot reserve port {mapping.host_end}", details=str(error))

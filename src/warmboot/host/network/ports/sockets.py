"""Resets TCP sockets of this host that were connected to a VM that is gone.

A process on the host that is connected to a published port would learn of a VM's end when it
sends, and else never. The kernel aborts a socket when it is told to (``SOCK_DESTROY``): its owner
sees the connection broken at once. Clients on other machines are answered with a reset when they
send (the set ``ended`` in ``rules``).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import structlog
from pyroute2 import DiagSocket, IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.diag import SOCK_DESTROY, inet_diag_req
from pyroute2.netlink.exceptions import NetlinkError

from warmboot.host.network.links import translated

# Every state but LISTEN, TIME_WAIT and CLOSE (linux/tcp_states.h): only what has another end.
_WITH_PEER = sum(1 << state for state in (1, 2, 3, 4, 5, 8, 9, 11, 12))
_GONE = (errno.ENOENT, errno.ENOTCONN)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ends:
    """The local and the remote address of a TCP connection."""

    ip: str
    port: int
    peer_ip: str
    peer_port: int


def reset(
    doomed: Callable[[Ends], bool], *, peer_ports: frozenset[int], own_ports: frozenset[int]
) -> int:
    """Abort the sockets in the calling thread's namespace that are ``doomed``; how many. Blocks.

    Only sockets with one of these ports are looked at: hosts have hundreds of thousands.
    """
    aborted = 0
    with translated("reset connections to a VM that is gone"), DiagSocket() as diag:
        diag.bind()
        for raw in list(_sockets(diag, peer_ports, own_ports)):
            if doomed(_ends(raw)):
                try:
                    _destroy(diag, raw)
                    aborted += 1
                except NetlinkError as error:
                    if error.code == errno.EOPNOTSUPP:
                        _log.warning("this kernel cannot reset sockets", lacks="INET_DIAG_DESTROY")
                        return 0
                    if error.code not in _GONE:
                        raise
    return aborted


def own_addresses() -> frozenset[str]:
    """The IPv4 addresses of this host. Blocks."""
    with translated("list the addresses"), IPRoute() as ip:
        return frozenset(
            str(address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS"))
            for address in ip.get_addr(family=socket.AF_INET)
        )


def _sockets(
    diag: DiagSocket, peer_ports: frozenset[int], own_ports: frozenset[int]
) -> Iterator[Any]:
    for family in (socket.AF_INET, socket.AF_INET6):  # IPv4 is spoken on sockets of both
        for port in peer_ports:
            yield from diag.get_sock_stats(family=family, states=_WITH_PEER, dport=port)
        for port in own_ports:
            yield from diag.get_sock_stats(family=family, states=_WITH_PEER, sport=port)


def _destroy(diag: DiagSocket, raw: Any) -> None:
    answers = diag.nlm_request(_request(raw), SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK)
    tuple(answers)  # it is sent when its answers are read


def _ends(raw: Any) -> Ends:
    return Ends(
        _as_ipv4(raw["idiag_src"]),
        raw["idiag_sport"],
        _as_ipv4(raw["idiag_dst"]),
        raw["idiag_dport"],
    )


def _as_ipv4(text: str) -> str:
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _request(raw: Any) -> inet_diag_req:
    """Names one socket, by its cookie as well: never one that came to its place since."""
    request = inet_diag_req()
    request["sdiag_family"] = raw["idiag_family"]
    request["sdiag_protocol"] = socket.IPPROTO_TCP
    for name in ("idiag_sport", "idiag_dport", "idiag_if", "idiag_cookie"):
        request[name] = raw[name]
    request["idiag_src"] = _words(raw["idiag_src"])
    request["idiag_dst"] = _words(raw["idiag_dst"])
    return request


def _words(text: str) -> tuple[int, ...]:
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return (int(address), 0, 0, 0)
    return tuple(int(address) >> shift & 0xFFFFFFFF for shift in (96, 64, 32, 0))

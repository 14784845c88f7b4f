"""Asks the kernel about one TCP socket of this network namespace: sock_diag(7).

One question by its two ends and one answer, whatever else is open; pyroute2 asks for whole tables.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from dataclasses import dataclass

Address = tuple[str, int]

ESTABLISHED = 1
_ANSWER_TIMEOUT_S = 2.0
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLMSG_ERROR, _NLM_F_REQUEST = 4, 20, 2, 1
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBxI")  # struct inet_diag_req_v2, up to its id
_PORTS = struct.Struct("!HH")  # struct inet_diag_sockid: ports and addresses in network order,
_REST = struct.Struct("=III")  # then the interface, and a cookie of which ~0 is any
_ANSWER = struct.Struct("=BBxx48s5I")  # struct inet_diag_msg
_ALL_STATES, _ANY = 0xFFFFFFFF, 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """``inode`` is 0 when no process has it any more; ``uid`` is then no one's either."""

    state: int
    uid: int
    inode: int


def tcp_socket(local: Address, remote: Address) -> TcpSocket | None:
    """The connection from ``local`` to ``remote``, as its owner's side has it; ``None``: no such.

    Raises ``OSError`` when the kernel does not say, ``ValueError`` for what is no address.
    """
    family, ends = _socket_id(local, remote)
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES) + ends
    body += _REST.pack(0, _ANY, _ANY)
    head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_ANSWER_TIMEOUT_S)
        netlink.sendto(head + body, (0, 0))
        answer = netlink.recv(8192)
    _, message, _, _, _ = _HEADER.unpack_from(answer)
    if message == _NLMSG_ERROR:
        (error,) = struct.unpack_from("=i", answer, _HEADER.size)
        if -error in (2, 3):  # ENOENT, ESRCH
            return None
        raise OSError(-error, f"sock_diag: {os.strerror(-error)}")
    answered, state, found, *numbers = _ANSWER.unpack_from(answer, _HEADER.size)
    # When it is gone, a listener on its port is found.
    if found[: len(ends)] != (ends if answered == family else _as_ipv6(ends)):
        return None
    return TcpSocket(state, uid=numbers[3], inode=numbers[4])


def _socket_id(local: Address, remote: Address) -> tuple[int, bytes]:
    addresses = [_unmapped(host) for host, _ in (local, remote)]
    if addresses[0].version != addresses[1].version:
        raise ValueError(f"{local} and {remote} are of two families")
    family = socket.AF_INET if addresses[0].version == 4 else socket.AF_INET6
    packed = b"".join(address.packed.ljust(16, b"\0") for address in addresses)
    return family, _PORTS.pack(local[1], remote[1]) + packed


def _as_ipv6(ends: bytes) -> bytes:
    """The same ends as a socket has them that was made for IPv6 and speaks IPv4."""
    mapped = [bytes(10) + b"\xff\xff" + ends[at : at + 4] for at in (4, 20)]
    return ends[:4] + b"".join(mapped)


def _unmapped(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """``::ffff:127.0.0.1`` is found as 127.0.0.1, whichever of the two a socket was made with."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address

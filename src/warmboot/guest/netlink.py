"""``ip neigh flush`` and ``ss -K`` without a program, which costs an emulated guest a second.

rtnetlink(7) for neighbours, sock_diag(7) for TCP sockets; both for the network namespace that the
calling thread is in. Errors are ``OSError``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

_CGROUPS = "/sys/fs/cgroup"
_CLONE_NEWNET = 0x40000000
_setns: Callable[[int, int], None] | None = getattr(os, "setns", None)  # from Python 3.12 on

_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_TIMEOUT_S = 10.0
_RECEIVED_BYTES = 64 << 10
_AT_ONCE = 64

_NETLINK_ROUTE = 0
_GET_NEIGHBOUR, _DELETE_NEIGHBOUR = 30, 29
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg
_ATTRIBUTE = struct.Struct("=HH")
_DESTINATION = 1  # NDA_DST
_LASTING = 0x40 | 0x80  # NUD_NOARP, NUD_PERMANENT

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG, _SOCK_DESTROY = 20, 21
_DIAG_REQUEST = struct.Struct("=BBBxI48s")  # struct inet_diag_req_v2
_DIAG_MESSAGE = struct.Struct("=BBxx48s")  # struct inet_diag_msg, as far as it is wanted
_PORTS = struct.Struct("!HH")
_TIME_WAIT, _CLOSE, _LISTEN, _NEW_SYN_RECV = 6, 7, 10, 12
_CONNECTED = (2 << _NEW_SYN_RECV) - 1 & ~(1 << _TIME_WAIT | 1 << _CLOSE | 1 << _LISTEN)
_NO_DIAG = (errno.ENOENT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP)
"""What a kernel says that has no ``inet_diag``, no ``tcp_diag``, or cannot destroy sockets."""


class TcpConnection(NamedTuple):
    """``peer``: its other end's address, 4 or 16 bytes."""

    local_port: int
    peer: bytes


def forget_neighbours(device: str | None = None) -> None:
    """Whose address is whose on the link of a device, or of all of them."""
    wanted = None if device is None else socket.if_nametoindex(device)
    with _Netlink(_NETLINK_ROUTE) as netlink:
        gone = []
        for message in netlink.dump(_GET_NEIGHBOUR, _NEIGHBOUR.pack(0, 0, 0, 0, 0)):
            family, index, state, flags, kind = _NEIGHBOUR.unpack_from(message)
            address = _attribute(message, _NEIGHBOUR.size, _DESTINATION)
            if address is not None and not state & _LASTING and wanted in (None, index):
                gone.append(_NEIGHBOUR.pack(family, index, state, flags, kind) + address)
        netlink.tell(_DELETE_NEIGHBOUR, gone)


def reset_connections(is_to_end: Callable[[TcpConnection], bool]) -> None:
    """End those TCP connections as if the peer had reset them.

    A kernel that was built without that can do so as well if there are none.
    """
    try:
        _reset_connections(is_to_end)
    except OSError as error:
        if error.errno not in _NO_DIAG or any(map(is_to_end, _listed_connections())):
            raise


def _listed_connections() -> Iterator[TcpConnection]:
    """As the kernel lists them in files (proc_net_tcp), for want of ``sock_diag``."""
    for name in ("tcp", "tcp6"):
        lines = _words_of_lines(f"/proc/thread-self/net/{name}")
        for _, local, peer, state, *_ in lines:
            address, _, _ = peer.partition(b":")
            if 1 << int(state, 16) & _CONNECTED:
                yield TcpConnection(int(local.partition(b":")[2], 16), _address(address))


def _words_of_lines(path: str) -> list[list[bytes]]:
    """Without the heading; none where there is no such file."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return [line.split() for line in file.readlines()[1:]]
    except FileNotFoundError:
        return []


def _address(digits: bytes) -> bytes:
    """Each four bytes of it are written as a number of this machine's."""
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    return b"".join(word.to_bytes(4, sys.byteorder) for word in words)


def _reset_connections(is_to_end: Callable[[TcpConnection], bool]) -> None:
    with _Netlink(_NETLINK_SOCK_DIAG) as netlink:
        ended = []
        for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
            asked = _DIAG_REQUEST.pack(family, socket.IPPROTO_TCP, 0, _CONNECTED, b"")
            for message in netlink.dump(_SOCK_DIAG, asked):
                _, _, ends = _DIAG_MESSAGE.unpack_from(message)
                port, _ = _PORTS.unpack_from(ends)
                if is_to_end(TcpConnection(port, ends[20 : 20 + size])):
                    ended.append(
                        _DIAG_REQUEST.pack(family, socket.IPPROTO_TCP, 0, _CONNECTED, ends)
                    )
        netlink.tell(_SOCK_DESTROY, ended)


def network_namespaces() -> Iterator[str]:
    """The paths of all that a process is in, the calling thread's first, and each once."""
    # Bare system calls: after a restore each layer of Python's files costs milliseconds.
    own = "/proc/thread-self/ns/net"
    seen = {os.readlink(own)}  # noqa: PTH115
    yield own
    for pid in _processes():
        path = f"/proc/{int(pid)}/ns/net"
        try:
            namespace = os.readlink(path)  # noqa: PTH115
        except OSError:  # it has ended
            continue
        if namespace not in seen:
            seen.add(namespace)
            yield path


def _processes() -> set[bytes]:
    """The numbers of all but the kernel's own threads, which are in the first namespace.

    By control groups: the kernel makes something of each process that is listed in ``/proc``.
    """
    found, folders = set[bytes](), [_CGROUPS]
    while folders:
        folder = folders.pop()
        found.update(_words(f"{folder}/cgroup.procs"))
        with contextlib.suppress(OSError), os.scandir(folder) as entries:  # it has gone
            folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return found.difference(_words("/proc/2/task/2/children"))


def _words(path: str) -> list[bytes]:
    """What a file of the kernel has; nothing if it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        read = b""
        while more := os.read(descriptor, _RECEIVED_BYTES):
            read += more
        return read.split()
    except OSError:  # a threaded group: its processes are in the one above
        return []
    finally:
        os.close(descriptor)


def enter(namespace: str) -> bool:
    """Have the calling thread be in another network namespace; whether it was still there."""
    if _setns is None:
        raise OSError(errno.ENOSYS, "this Python is too old to enter network namespaces")
    try:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):  # its process has ended
        return False
    try:
        _setns(descriptor, _CLONE_NEWNET)
    finally:
        os.close(descriptor)
    return True


class _Netlink:
    """A netlink socket of the kernel's."""

    def __init__(self, protocol: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        self._socket.settimeout(_TIMEOUT_S)
        self._number = 0

    def __enter__(self) -> _Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The messages of a table."""
        self._socket.sendto(self._message(kind, _REQUEST | _DUMP, body), (0, 0))
        found: list[bytes] = []
        while True:
            for answer, message in self._received():
                if answer == _DONE:
                    return found
                if answer == _ERROR:
                    _raise(message)
                found.append(message)

    def tell(self, kind: int, bodies: list[bytes]) -> None:
        """Have each of them done; what is not there any more is done."""
        for at in range(0, len(bodies), _AT_ONCE):
            some = bodies[at : at + _AT_ONCE]
            told = b"".join(self._message(kind, _REQUEST | _ACK, body) for body in some)
            self._socket.sendto(told, (0, 0))
            left = len(some)
            while left:
                for answer, message in self._received():
                    if answer == _ERROR:
                        _raise(message, errno.ENOENT)
                        left -= 1

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        self._number += 1
        return _HEADER.pack(_HEADER.size + len(body), kind, flags, self._number, 0) + body

    def _received(self) -> Iterator[tuple[int, bytes]]:
        data = self._socket.recv(_RECEIVED_BYTES)
        at = 0
        while at < len(data):
            size, kind, _, _, _ = _HEADER.unpack_from(data, at)
            yield kind, data[at + _HEADER.size : at + size]
            at += size + 3 & ~3


def _raise(message: bytes, but: int = 0) -> None:
    """What a message of an error says, if it is one: it may say that all went well."""
    (number,) = struct.unpack_from("=i", message)
    if -number not in (0, but):
        raise OSError(-number, f"netlink: {os.strerror(-number)}")


def _attribute(message: bytes, at: int, wanted: int) -> bytes | None:
    """An attribute as it stands in a message, from its length on."""
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind == wanted:
            return message[at : at + size]
        at += max(size, _ATTRIBUTE.size) + 3 & ~3
    return None

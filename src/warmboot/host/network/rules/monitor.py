"""Monitors changes of nftables, on the host and in every namespace.

The kernel tells (``NFNLGRP_NFTABLES``) who listens in the network namespace that is changed; so
there is a socket for each. Messages name their table: what does not name one of ours is passed
over. When there was more than the socket could hold, it is taken for a change.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial

_NETLINK_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTABLES = 12, 270, 1, 7
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
# New tables, sets and elements of sets take nothing away: linux/netfilter/nf_tables.h
_HARMLESS = {0, 9, 12, 15}
_HEADER = struct.Struct("=IHHII")
_FAMILY_BYTES = 4  # struct nfgenmsg
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER_BYTES = 1 << 20
_READ_BYTES = 1 << 16


def open_socket() -> socket.socket:
    """A netlink socket in the network namespace of the calling thread."""
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
    )
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        made.bind((0, 0))
        made.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
    except OSError:
        made.close()
        raise
    return made


class Monitor:
    """Calls ``changed`` with a key when a table of one of these names was changed at its socket."""

    def __init__(self, tables: tuple[str, ...], changed: Callable[[str, str], None]) -> None:
        self._tables = frozenset(tables)
        self._changed = changed
        self._sockets: dict[str, socket.socket] = {}

    def watch(self, key: str, opened: socket.socket) -> None:
        """Watch a socket, and own it from now on. Needs a running event loop."""
        self.forget(key)
        self._sockets[key] = opened
        asyncio.get_running_loop().add_reader(opened, partial(self._read, key, opened))

    def forget(self, key: str) -> None:
        """Close a socket, as an open one keeps its namespace alive. Idempotent."""
        opened = self._sockets.pop(key, None)
        if opened is not None:
            asyncio.get_running_loop().remove_reader(opened)
            opened.close()

    def close(self) -> None:
        for key in list(self._sockets):
            self.forget(key)

    def _read(self, key: str, opened: socket.socket) -> None:
        touched: set[str] = set()
        try:
            while True:
                touched |= self._touched(opened.recv(_READ_BYTES))
        except BlockingIOError:
            pass
        except OSError:  # ENOBUFS: some were lost
            touched = set(self._tables)
        for table in touched:
            self._changed(key, table)

    def _touched(self, datagram: bytes) -> set[str]:
        named = {table for kind, table in messages(datagram) if kind not in _HARMLESS}
        return named & self._tables


def messages(datagram: bytes) -> Iterator[tuple[int, str]]:
    """Kind and table of each message of nftables in it."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, _, _, _ = _HEADER.unpack_from(datagram, at)
        if length < _HEADER.size:
            return
        if kind >> 8 == _SUBSYSTEM:
            yield kind & 0xFF, _table(datagram[at + _HEADER.size : at + length])
        at += length + 3 & ~3


def _table(body: bytes) -> str:
    """The first attribute of every message is its table's name, of type 1."""
    if len(body) < _FAMILY_BYTES + _ATTRIBUTE.size:
        return ""
    length, kind = _ATTRIBUTE.unpack_from(body, _FAMILY_BYTES)
    if kind != 1:
        return ""
    text = body[_FAMILY_BYTES + _ATTRIBUTE.size : _FAMILY_BYTES + length]
    return text.rstrip(b"\0").decode(errors="replace")

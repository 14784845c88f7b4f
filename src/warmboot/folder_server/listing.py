"""What is in a folder, in pieces. Where a piece ends is told by a digest of the last name in it,
which is true whatever comes and goes meanwhile, and after a restart."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from hashlib import blake2b
from threading import Lock

from warmboot.folder_server.attributes import TOOSMALL, Refused
from warmboot.folder_server.tree import Node, Tree
from warmboot.folder_server.xdr import opaque, u32, u64

_MOST_KEPT, _MOST_ENTRIES_KEPT = 8, 500_000
_DOT, _DOT_DOT, _FIRST = 1, 2, 3
_FRAME_BYTES = 200
"""What stands around the entries, in an answer: with room."""

Described = Callable[[Node, os.stat_result], bytes]


class Listings:
    """Folders that are being listed are kept for as long as they are not changed: some, and a large
    one alone. They are listed one after the other, as a guest could have many that are large."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._one_by_one = Lock()
        self._kept: OrderedDict[Node, tuple[int, list[tuple[int, bytes, int]]]] = OrderedDict()

    def names(self, node: Node, found: os.stat_result, cookie: int, most: int) -> list[bytes]:
        """``dirlist3``: names and file numbers."""

        def shown(at: int, name: bytes, inode: int) -> bytes:
            return u32(1) + u64(inode) + opaque(name) + u64(at)

        with self._one_by_one:
            return _piece((shown(*one) for one in self._after(node, found, cookie)), most)

    def described(
        self, node: Node, found: os.stat_result, cookie: int, most: int, described: Described
    ) -> list[bytes]:
        """``dirlistplus3``: with attributes and handles. What vanishes meanwhile has none."""

        def shown(at: int, name: bytes, inode: int) -> bytes:
            try:
                if at < _FIRST:
                    one = node if at == _DOT else node.parent or node
                    state = self._tree.look(one)
                else:
                    state = os.lstat(node.path + b"/" + name)
                    one = self._tree.child(node, name, state)
            except OSError:
                return u32(1) + u64(inode) + opaque(name) + u64(at) + u32(0) * 2
            told = u32(1) + described(one, state) + u32(1) + opaque(one.handle)
            return u32(1) + u64(one.fileid) + opaque(name) + u64(at) + told

        with self._one_by_one:
            return _piece((shown(*one) for one in self._after(node, found, cookie)), most)

    def _after(
        self, node: Node, found: os.stat_result, cookie: int
    ) -> Iterator[tuple[int, bytes, int]]:
        if cookie < _DOT:
            yield _DOT, b".", node.fileid
        if cookie < _DOT_DOT:
            yield _DOT_DOT, b"..", (node.parent or node).fileid
        # From the beginning, it is read anew: not every change gives a folder another time.
        entries = self._entries(node, found, anew=cookie < _FIRST)
        yield from entries[bisect_right(entries, cookie, key=lambda one: one[0]) :]

    def _entries(
        self, node: Node, found: os.stat_result, anew: bool
    ) -> list[tuple[int, bytes, int]]:
        kept = self._kept.get(node)
        if not anew and kept is not None and kept[0] == found.st_mtime_ns:
            return kept[1]
        self._kept.pop(node, None)
        with os.scandir(node.path) as scanned:
            entries = sorted((_cookie(one.name), one.name, one.inode()) for one in scanned)
        self._kept[node] = found.st_mtime_ns, entries
        while len(self._kept) > _MOST_KEPT or (len(self._kept) > 1 and self._too_many()):
            self._kept.popitem(last=False)
        return entries

    def _too_many(self) -> bool:
        return sum(len(entries) for _, entries in self._kept.values()) > _MOST_ENTRIES_KEPT


def _cookie(name: bytes) -> int:
    return max(int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 1, _FIRST)


def _piece(entries: Iterator[bytes], most: int) -> list[bytes]:
    """As many as there is room for; then whether that was all."""
    parts: list[bytes] = []
    left = most - _FRAME_BYTES
    for entry in entries:
        left -= len(entry)
        if left < 0:
            if not parts:
                raise Refused(TOOSMALL)
            return [*parts, u32(0), u32(0)]
        parts.append(entry)
    return [*parts, u32(0), u32(1)]

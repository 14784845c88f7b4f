"""File handles, what they stand for, and files that are open.

A handle says which folder, the file's number in it, and of each folder on the way one byte, by
which the file is found again after a restart:

    folder's id, 8 bytes | file number, 8 | depth, 1 | a byte for each folder on the way, 40 at most

While we run, it is known where each file was seen last, and a file keeps the handle that it was
given first, whatever it is called later. What is not found has gone: ``ESTALE``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from time import monotonic

from warmboot.folder_server.attributes import BADHANDLE, INVAL, ISDIR, Refused

_HEAD = struct.Struct(">8sQB")
_MOST_DEPTH = 40
_MOST_OPEN = 256
_MOST_NODES = 200_000
_IDLE_S, _LONG_IDLE_S = 5.0, 600.0
_READ_WRITE, _EXECUTABLE = stat.S_IRUSR | stat.S_IWUSR, 0o111
_MOST_LOOKED_AT = 1_000_000
_DEEPEST = 1000


@dataclass(slots=True, eq=False)
class Node:
    """A file that was seen: ``name`` in ``parent``; a folder that is given has neither."""

    handle: bytes
    fileid: int
    parent: Node | None
    name: bytes
    root: Root

    @property
    def path(self) -> bytes:
        parts: list[bytes] = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
            if len(parts) > _DEEPEST:  # two were moved into each other's place, unseen by us
                raise _stale()
        parts.append(self.root.path)
        return b"/".join(reversed(parts))


@dataclass(slots=True, eq=False)
class Root:
    """A folder that is given. ``device``: that of its own files."""

    id: bytes
    path: bytes
    device: int


@dataclass(slots=True)
class _Open:
    descriptor: int
    writable: bool
    used_s: float
    users: int = 0
    lasting: bool = False


class Tree:
    """``roots``: the paths of the folders by their ids, of 16 hex digits each."""

    def __init__(self, roots: dict[str, str]) -> None:
        self._nodes: OrderedDict[tuple[bytes, int], Node] = OrderedDict()
        self._roots: dict[bytes, Node] = {}
        self._open: OrderedDict[Node, _Open] = OrderedDict()
        self._lock = Lock()
        for name, path in roots.items():
            self._add_root(bytes.fromhex(name), os.fsencode(path))

    def _add_root(self, key: bytes, path: bytes) -> None:
        found = os.lstat(path)
        root = Root(key, path, found.st_dev)
        fileid = self._fileid(root, found)
        self._roots[key] = Node(_HEAD.pack(key, fileid, 0), fileid, None, b"", root)

    def root(self, name: str) -> Node | None:
        try:
            return self._roots.get(bytes.fromhex(name))
        except ValueError:
            return None

    # -- handles -------------------------------------------------------------------------------

    def node(self, handle: bytes) -> Node:
        """``Refused`` for what is no handle, ``OSError`` for what is no more."""
        try:
            key, fileid, depth = _HEAD.unpack_from(handle)
        except struct.error as error:
            raise Refused(BADHANDLE) from error
        root = self._roots.get(key)
        if root is None:
            raise _stale()
        if depth == 0:
            return root
        node = self._nodes.get((key, fileid))
        return node if node is not None else self._search(root, handle, fileid, depth)

    def look(self, node: Node) -> os.stat_result:
        """What it is now, where it is now. ``OSError``."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = os.lstat(node.path)
            if self._fileid(node.root, found) == node.fileid:
                return found
        return self._look_again(node)

    def _look_again(self, node: Node) -> os.stat_result:
        """It was moved, on the host or by another of its names; or has gone."""
        if node.parent is None:
            raise _stale()
        fileid, depth = _HEAD.unpack_from(node.handle)[1:]
        found = self._search(self._roots[node.root.id], node.handle, fileid, depth)
        node.parent, node.name = found.parent, found.name
        self._nodes[node.root.id, fileid] = node
        return os.lstat(node.path)

    def child(self, parent: Node, name: bytes, found: os.stat_result) -> Node:
        """The node of what was found there."""
        fileid = self._fileid(parent.root, found)
        node = self._nodes.get((parent.root.id, fileid))
        if node is None:
            if fileid == self._roots[parent.root.id].fileid:
                return self._roots[parent.root.id]
            depth = parent.handle[16] + 1
            way = parent.handle[17:] + bytes([_digest(parent.fileid)])
            head = _HEAD.pack(parent.root.id, fileid, min(depth, 255))
            node = Node(head + way[:_MOST_DEPTH], fileid, parent, name, parent.root)
            self._nodes[parent.root.id, fileid] = node
            while len(self._nodes) > _MOST_NODES:
                self._nodes.popitem(last=False)
        elif node.parent is not parent or node.name != name:
            node.parent, node.name = parent, name
        return node

    def _fileid(self, root: Root, found: os.stat_result) -> int:
        """Of another device (a subvolume): not the number of a file of the first."""
        if found.st_dev == root.device:
            return found.st_ino
        return (found.st_ino ^ (found.st_dev * 0x9E3779B97F4A7C15)) & (1 << 64) - 1

    def fileid(self, parent: Node, found: os.stat_result) -> int:
        return self._fileid(parent.root, found)

    def _search(self, root: Node, handle: bytes, fileid: int, depth: int) -> Node:
        """Follow the bytes of the folders on the way."""
        way = handle[_HEAD.size :]
        if depth != len(way):  # too deep to be found
            raise _stale()
        left = _MOST_LOOKED_AT
        level = [root]
        for at in range(depth):
            last = at == depth - 1
            following: list[Node] = []
            for folder in level:
                if way[at] != _digest(folder.fileid):
                    continue
                with contextlib.suppress(OSError), os.scandir(folder.path) as entries:
                    for entry in entries:
                        left -= 1
                        if last and entry.inode() == fileid:
                            node = self.child(folder, entry.name, entry.stat(follow_symlinks=False))
                            if node.fileid == fileid:
                                return node
                        elif not last and _may_be(entry, way[at + 1]):
                            found = entry.stat(follow_symlinks=False)
                            following.append(self.child(folder, entry.name, found))
                if left < 0:
                    raise _stale()
            level = following
        raise _stale()

    # -- open files ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def opened(self, node: Node, *, to_write: bool = False) -> Iterator[int]:
        """A descriptor of a regular file. ``OSError``, ``Refused``."""
        with self._lock:
            one = self._open.get(node)
            if one is not None and (one.writable or not to_write):
                self._open.move_to_end(node)
            else:
                one = None
            if one is not None:
                one.users += 1
        if one is None:
            one = self._opened(node, to_write)
        try:
            yield one.descriptor
        finally:
            with self._lock:
                one.users -= 1
                one.used_s = monotonic()
                if one.users == 0 and self._open.get(node) is not one:
                    os.close(one.descriptor)

    def _opened(self, node: Node, to_write: bool) -> _Open:
        found = self.look(node)
        if stat.S_ISDIR(found.st_mode):
            raise Refused(ISDIR)
        if not stat.S_ISREG(found.st_mode):
            raise Refused(INVAL)
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(node.path, flags | (os.O_RDWR if to_write else os.O_RDONLY))
        if self._fileid(node.root, os.fstat(descriptor)) != node.fileid:  # exchanged meanwhile
            os.close(descriptor)
            raise _stale()
        return self.keep(node, descriptor, to_write, users=1)

    def keep(self, node: Node, descriptor: int, writable: bool, users: int = 0) -> _Open:
        """An open file of this node, for those who come."""
        one = _Open(descriptor, writable, monotonic(), users)
        with self._lock:
            self._drop(node)
            self._open[node] = one
            while len(self._open) > _MOST_OPEN:
                self._drop(self._least_needed())
        return one

    def written(self, node: Node) -> None:
        """What was written is on the disk. While it is open, the host does not start a program."""
        with self._lock:
            one = self._open.get(node)
            if one is not None and one.users == 0 and one.writable and _opens_again(one):
                self._drop(node)

    def forget(self, node: Node) -> None:
        """It was removed: its room on the disk comes back."""
        with self._lock:
            self._drop(node)

    def close_idle(self) -> None:
        with self._lock:
            now_s = monotonic()
            for node, one in list(self._open.items()):
                if one.used_s < now_s - _IDLE_S:
                    one.lasting = _lasts(one)
                    if not one.lasting or one.used_s < now_s - _LONG_IDLE_S:
                        self._drop(node)

    def _least_needed(self) -> Node:
        for node, one in self._open.items():
            one.lasting = one.lasting or _lasts(one)
            if not one.lasting:
                return node
        return next(iter(self._open))

    def _drop(self, node: Node) -> None:
        one = self._open.pop(node, None)
        if one is not None and one.users == 0:
            os.close(one.descriptor)


def _opens_again(one: _Open) -> bool:
    """Whether we could open it anew: not what was made read-only, as git's files are, to which who
    has made it may write all the same."""
    found = os.fstat(one.descriptor)
    ours = found.st_uid == os.geteuid() != 0
    return not (one.writable and ours) or found.st_mode & _READ_WRITE == _READ_WRITE


def _lasts(one: _Open) -> bool:
    """Whether it is kept for long, as a guest writes when it likes to. A program would not start on
    the host meanwhile, and a file that was removed would take its room."""
    try:
        found = os.fstat(one.descriptor)
        used = found.st_nlink > 0 and not found.st_mode & _EXECUTABLE
        return used and not _opens_again(one)
    except OSError:  # of a disk that is gone
        return False


def _stale() -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _digest(fileid: int) -> int:
    return (fileid * 0x9E3779B97F4A7C15 >> 40) & 0xFF


def _may_be(entry: os.DirEntry[bytes], digest: int) -> bool:
    return _digest(entry.inode()) == digest and entry.is_dir(follow_symlinks=False)

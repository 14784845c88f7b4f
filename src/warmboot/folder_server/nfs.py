"""NFS version 3 (RFC 1813): what looks at files, and what reads and writes them.

Everything is done as the process that we are: who is said to ask counts for nothing. A change of
owner succeeds and changes nothing, as files are made as this process's user anyway.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable

from warmboot.folder_server.attributes import (
    INVAL,
    NOTDIR,
    OK,
    Refused,
    attributes,
    before,
    status_of,
)
from warmboot.folder_server.listing import Listings
from warmboot.folder_server.rpc import Procedure, Program
from warmboot.folder_server.tree import Node, Tree
from warmboot.folder_server.xdr import Reader, opaque, u32, u64

PROGRAM, VERSION = 100003, 3
MOST_BYTES = 1 << 20
MOST_HANDLE_BYTES, MOST_NAME_BYTES, MOST_LINK_BYTES = 64, 255, 4096
FSID = 0x77623
_READ, _LOOKUP, _MODIFY, _EXTEND, _DELETE, _EXECUTE = 1, 2, 4, 8, 16, 32
_UNSTABLE, _FILE_SYNC = 0, 2
_NO_ATTRIBUTES = u32(0)
_NO_WCC = u32(0) * 2
_FSF = 1 | 2 | 8 | 16  # hard links, symbolic links, the same everywhere, times can be set

Do = Callable[[Reader], list[bytes]]


class Nfs:
    """Looks, reads and writes. Each procedure ends with a status; ``failed`` is what follows it
    where it is not ``OK``."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._verifier = secrets.token_bytes(8)
        """Another one after a restart: then the guest writes again what it has not committed."""
        self._listings = Listings(tree)

    def procedures(self) -> dict[int, Procedure]:
        return {
            0: lambda _: [],
            1: self._ending(self._getattr, b""),
            3: self._ending(self._lookup, _NO_ATTRIBUTES),
            4: self._ending(self._access, _NO_ATTRIBUTES),
            5: self._ending(self._readlink, _NO_ATTRIBUTES),
            6: self._ending(self._read, _NO_ATTRIBUTES),
            7: self._ending(self._write, _NO_WCC),
            16: self._ending(self._readdir, _NO_ATTRIBUTES),
            17: self._ending(self._readdirplus, _NO_ATTRIBUTES),
            18: self._ending(self._fsstat, _NO_ATTRIBUTES),
            19: self._ending(self._fsinfo, _NO_ATTRIBUTES),
            20: self._ending(self._pathconf, _NO_ATTRIBUTES),
            21: self._ending(self._commit, _NO_WCC),
        }

    @staticmethod
    def _ending(do: Do, failed: bytes) -> Procedure:
        def procedure(call: Reader) -> list[bytes]:
            try:
                return [u32(OK), *do(call)]
            except Refused as refused:
                return [u32(refused.status), failed]
            except OSError as error:
                return [u32(status_of(error)), failed]

        return procedure

    # -- parts ---------------------------------------------------------------------------------

    def node(self, call: Reader) -> Node:
        return self.tree.node(call.opaque(MOST_HANDLE_BYTES))

    def attributes(self, node: Node, found: os.stat_result) -> bytes:
        return attributes(found, FSID, node.fileid)

    def after(self, node: Node) -> bytes:
        """``post_op_attr``."""
        try:
            return u32(1) + self.attributes(node, self.tree.look(node))
        except OSError:
            return _NO_ATTRIBUTES

    def changed(self, node: Node, earlier: os.stat_result | None) -> bytes:
        """``wcc_data``."""
        return before(earlier) + self.after(node)

    def folder(self, node: Node) -> os.stat_result:
        found = self.tree.look(node)
        if not stat.S_ISDIR(found.st_mode):
            raise Refused(NOTDIR)
        return found

    def name(self, call: Reader) -> bytes:
        """Of an entry that is to be found or made: not of one that leads up."""
        name = call.opaque(MOST_LINK_BYTES)
        if len(name) > MOST_NAME_BYTES:
            raise OSError(errno.ENAMETOOLONG, "")
        if not name or b"/" in name or b"\0" in name:
            raise Refused(INVAL)
        return name

    # -- looking -------------------------------------------------------------------------------

    def _getattr(self, call: Reader) -> list[bytes]:
        node = self.node(call)
        return [self.attributes(node, self.tree.look(node))]

    def _lookup(self, call: Reader) -> list[bytes]:
        folder = self.node(call)
        here = self.folder(folder)
        name = self.name(call)
        if name == b".":
            node, found = folder, here
        elif name == b"..":
            node = folder.parent or folder  # from a folder that is given, nothing leads up
            found = self.tree.look(node)
        else:
            found = os.lstat(folder.path + b"/" + name)
            node = self.tree.child(folder, name, found)
        shown = self.attributes(node, found)
        return [opaque(node.handle), u32(1), shown, u32(1), self.attributes(folder, here)]

    def _access(self, call: Reader) -> list[bytes]:
        node, asked = self.node(call), call.u32()
        found, path = self.tree.look(node), node.path
        if stat.S_ISLNK(found.st_mode):
            granted = asked
        else:
            writable = os.access(path, os.W_OK)
            granted = _READ if os.access(path, os.R_OK) else 0
            granted |= _MODIFY | _EXTEND if writable else 0
            if os.access(path, os.X_OK):
                granted |= _LOOKUP if stat.S_ISDIR(found.st_mode) else _EXECUTE
            if stat.S_ISDIR(found.st_mode) and writable:
                granted |= _DELETE
        return [u32(1), self.attributes(node, found), u32(asked & granted)]

    def _readlink(self, call: Reader) -> list[bytes]:
        node = self.node(call)
        found = self.tree.look(node)
        if not stat.S_ISLNK(found.st_mode):
            raise Refused(INVAL)
        return [u32(1), self.attributes(node, found), opaque(os.readlink(node.path))]

    def _readdir(self, call: Reader) -> list[bytes]:
        node = self.node(call)
        found = self.folder(node)
        cookie, _, most = call.u64(), call.fixed(8), min(call.u32(), MOST_BYTES)
        entries = self._listings.names(node, found, cookie, most)
        return [u32(1), self.attributes(node, found), bytes(8), *entries]

    def _readdirplus(self, call: Reader) -> list[bytes]:
        node = self.node(call)
        found = self.folder(node)
        cookie, _, _, most = call.u64(), call.fixed(8), call.u32(), min(call.u32(), MOST_BYTES)
        entries = self._listings.described(node, found, cookie, most, self.attributes)
        return [u32(1), self.attributes(node, found), bytes(8), *entries]

    # -- data ----------------------------------------------------------------------------------

    def _read(self, call: Reader) -> list[bytes]:
        node, offset, count = self.node(call), call.u64(), min(call.u32(), MOST_BYTES)
        if offset >= 1 << 63:
            raise Refused(INVAL)
        with self.tree.opened(node) as descriptor:
            data = os.pread(descriptor, count, offset)
            found = os.fstat(descriptor)
        ended = u32(int(offset + len(data) >= found.st_size))
        head = u32(1) + self.attributes(node, found) + u32(len(data)) + ended + u32(len(data))
        return [head, data, bytes(-len(data) % 4)]

    def _write(self, call: Reader) -> list[bytes]:
        node, offset, _, stable = self.node(call), call.u64(), call.u32(), call.u32()
        data = call.opaque(MOST_BYTES)
        if offset + len(data) >= 1 << 63:
            raise OSError(errno.EFBIG, "")
        with self.tree.opened(node, to_write=True) as descriptor:
            earlier = os.fstat(descriptor)
            written = os.pwrite(descriptor, data, offset)
            if stable != _UNSTABLE:
                os.fdatasync(descriptor)
                stable = _FILE_SYNC
            later = os.fstat(descriptor)
        if stable != _UNSTABLE:
            self.tree.written(node)
        shown = before(earlier) + u32(1) + self.attributes(node, later)
        return [shown, u32(written), u32(stable), self._verifier]

    def _commit(self, call: Reader) -> list[bytes]:
        node = self.node(call)
        with self.tree.opened(node) as descriptor:
            os.fsync(descriptor)
            found = os.fstat(descriptor)
        self.tree.written(node)
        return [u32(0), u32(1), self.attributes(node, found), self._verifier]

    # -- the file system -----------------------------------------------------------------------

    def _fsstat(self, call: Reader) -> list[bytes]:
        node = self.node(call)
        shown = self.after(node)
        found = os.statvfs(node.path)
        unit = found.f_frsize
        sizes = (found.f_blocks * unit, found.f_bfree * unit, found.f_bavail * unit)
        return [shown, *map(u64, (*sizes, found.f_files, found.f_ffree, found.f_favail)), u32(0)]

    def _fsinfo(self, call: Reader) -> list[bytes]:
        node = self.node(call)
        sizes = (MOST_BYTES, MOST_BYTES, 4096) * 2
        return [
            self.after(node), *map(u32, (*sizes, MOST_BYTES)),
            u64((1 << 63) - 1), u32(0), u32(1), u32(_FSF),
        ]  # fmt: skip

    def _pathconf(self, call: Reader) -> list[bytes]:
        node = self.node(call)
        # Links, length of names; what is longer is refused, only root gives away, cases differ.
        return [self.after(node), *map(u32, (65000, MOST_NAME_BYTES, 1, 1, 0, 1))]


def program_of(reading: dict[int, Procedure], changing: dict[int, Procedure]) -> Program:
    return Program(VERSION, {**reading, **changing}, frozenset({6, 7, 21}))

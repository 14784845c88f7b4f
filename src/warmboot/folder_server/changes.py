"""NFS version 3: what makes, changes and removes files and folders."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from warmboot.folder_server.attributes import (
    EXIST,
    INVAL,
    NOT_SYNC,
    PERM,
    Refused,
    before,
    status_of,
)
from warmboot.folder_server.nfs import MOST_LINK_BYTES, Nfs
from warmboot.folder_server.rpc import Procedure
from warmboot.folder_server.tree import Node
from warmboot.folder_server.xdr import Malformed, Reader, opaque, u32

_UNCHECKED, _GUARDED, _EXCLUSIVE = 0, 1, 2
_KEEP, _NOW, _GIVEN = 0, 1, 2
_FIFO, _MADE_MODE = 7, 0o666
_SECOND = 10**9
_VERIFIER = struct.Struct(">II")


@dataclass(slots=True)
class Wanted:
    """``sattr3``, without the owner, whom nobody changes. Times in ns; ``None``: as it is."""

    mode: int | None
    size: int | None
    atime_ns: int | None
    mtime_ns: int | None

    @classmethod
    def read(cls, call: Reader) -> Wanted:
        mode = call.u32() & 0o7777 if call.u32() else None
        for _ in range(2):
            if call.u32():
                call.u32()
        size = call.u64() if call.u32() else None
        return cls(mode, size, _time(call), _time(call))


def _time(call: Reader) -> int | None:
    how = call.u32()
    if how == _GIVEN:
        return call.u32() * _SECOND + call.u32()
    if how not in (_KEEP, _NOW):
        raise Malformed("a time that is neither kept, now nor given")
    return time.time_ns() if how == _NOW else None


class Changes:
    """Its procedures tell what a folder was before and is after, also where they fail."""

    def __init__(self, nfs: Nfs) -> None:
        self._nfs = nfs
        self._tree = nfs.tree

    def procedures(self) -> dict[int, Procedure]:
        return {
            2: self._setattr,
            8: self._in_folder(self._create),
            9: self._in_folder(self._mkdir),
            10: self._in_folder(self._symlink),
            11: self._in_folder(self._mknod),
            12: self._in_folder(self._remove),
            13: self._in_folder(self._rmdir),
            14: self._rename,
            15: self._link,
        }

    def _in_folder(self, do: Callable[[Node, bytes, Reader], list[bytes]]) -> Procedure:
        """Of a folder, and a name in it."""

        def procedure(call: Reader) -> list[bytes]:
            folder, earlier = None, None
            try:
                folder = self._nfs.node(call)
                earlier = self._nfs.folder(folder)
                results = [u32(0), *do(folder, self._new_name(call), call)]
            except Refused as refused:
                results = [u32(refused.status)]
            except OSError as error:
                results = [u32(status_of(error))]
            if folder is None:
                return [*results, u32(0), u32(0)]
            return [*results, self._nfs.changed(folder, earlier)]

        return procedure

    def _new_name(self, call: Reader) -> bytes:
        name = self._nfs.name(call)
        if name in (b".", b".."):
            raise Refused(EXIST)
        return name

    def _made(self, folder: Node, name: bytes) -> list[bytes]:
        """``post_op_fh3`` and its attributes."""
        found = os.lstat(folder.path + b"/" + name)
        node = self._tree.child(folder, name, found)
        return [u32(1), opaque(node.handle), u32(1), self._nfs.attributes(node, found)]

    # -- attributes ----------------------------------------------------------------------------

    def _setattr(self, call: Reader) -> list[bytes]:
        node, earlier = None, None
        status = 0
        try:
            node = self._nfs.node(call)
            wanted = Wanted.read(call)
            earlier = self._tree.look(node)
            if call.u32():
                guard = call.u32() * _SECOND + call.u32()
                if guard != earlier.st_ctime_ns:
                    raise Refused(NOT_SYNC)
            self._apply(node, wanted, earlier)
        except Refused as refused:
            status = refused.status
        except OSError as error:
            status = status_of(error)
        if node is None:
            return [u32(status), u32(0), u32(0)]
        return [u32(status), self._nfs.changed(node, earlier)]

    def _apply(self, node: Node, wanted: Wanted, found: os.stat_result) -> None:
        path = node.path
        if wanted.size is not None:
            if wanted.size >= 1 << 63:
                raise OSError(errno.EFBIG, "")
            with self._tree.opened(node, to_write=True) as descriptor:
                os.ftruncate(descriptor, wanted.size)
        if wanted.mode is not None and not stat.S_ISLNK(found.st_mode):
            _set_mode(path, wanted.mode, found)
        if wanted.atime_ns is not None or wanted.mtime_ns is not None:
            atime_ns = found.st_atime_ns if wanted.atime_ns is None else wanted.atime_ns
            mtime_ns = found.st_mtime_ns if wanted.mtime_ns is None else wanted.mtime_ns
            os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=False)

    # -- making --------------------------------------------------------------------------------

    def _create(self, folder: Node, name: bytes, call: Reader) -> list[bytes]:
        how = call.u32()
        if how == _EXCLUSIVE:
            return self._create_once(folder, name, call.fixed(8))
        if how not in (_UNCHECKED, _GUARDED):
            raise Malformed("a way to create that there is not")
        wanted = Wanted.read(call)
        mode = _MADE_MODE if wanted.mode is None else wanted.mode & 0o1777
        path = folder.path + b"/" + name
        try:
            node = self._open_new(folder, name, mode)
        except FileExistsError:
            if how == _GUARDED:
                raise
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode):
                raise Refused(EXIST) from None
            node = self._tree.child(folder, name, found)
            wanted.mode = None
        self._apply(
            node, Wanted(None, wanted.size, wanted.atime_ns, wanted.mtime_ns), self._tree.look(node)
        )
        return self._made(folder, name)

    def _create_once(self, folder: Node, name: bytes, verifier: bytes) -> list[bytes]:
        """The same call again, whose answer was lost, finds the file that it has made: by its
        times, which the guest sets next."""
        atime_s, mtime_s = (word & 0x7FFFFFFF for word in _VERIFIER.unpack(verifier))
        path = folder.path + b"/" + name
        try:
            self._open_new(folder, name, _MADE_MODE & 0o600)
            os.utime(path, (atime_s, mtime_s), follow_symlinks=False)
        except FileExistsError:
            found = os.lstat(path)
            if (int(found.st_atime), int(found.st_mtime)) != (atime_s, mtime_s):
                raise
        return self._made(folder, name)

    def _open_new(self, folder: Node, name: bytes, mode: int) -> Node:
        """It stays open for a while: who made it may write to it, whatever its mode."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(folder.path + b"/" + name, flags, mode)
        node = self._tree.child(folder, name, os.fstat(descriptor))
        self._tree.keep(node, descriptor, True)
        return node

    def _mkdir(self, folder: Node, name: bytes, call: Reader) -> list[bytes]:
        wanted = Wanted.read(call)
        os.mkdir(folder.path + b"/" + name, 0o777 if wanted.mode is None else wanted.mode & 0o1777)
        return self._made(folder, name)

    def _symlink(self, folder: Node, name: bytes, call: Reader) -> list[bytes]:
        Wanted.read(call)
        target = call.opaque(MOST_LINK_BYTES)
        if not target or b"\0" in target:
            raise Refused(INVAL)
        os.symlink(target, folder.path + b"/" + name)
        return self._made(folder, name)

    def _mknod(self, folder: Node, name: bytes, call: Reader) -> list[bytes]:
        """Named pipes; a device or a socket would be the host's as well."""
        if call.u32() != _FIFO:
            raise Refused(PERM)
        wanted = Wanted.read(call)
        os.mkfifo(folder.path + b"/" + name, _MADE_MODE if wanted.mode is None else wanted.mode)
        return self._made(folder, name)

    # -- removing and moving -------------------------------------------------------------------

    def _remove(self, folder: Node, name: bytes, _: Reader) -> list[bytes]:
        path = folder.path + b"/" + name
        found = os.lstat(path)
        os.unlink(path)
        if found.st_nlink <= 1:
            self._tree.forget(self._tree.child(folder, name, found))
        return []

    def _rmdir(self, folder: Node, name: bytes, _: Reader) -> list[bytes]:
        os.rmdir(folder.path + b"/" + name)
        return []

    def _rename(self, call: Reader) -> list[bytes]:
        folders: list[tuple[Node, os.stat_result]] = []
        status = 0
        try:
            names = []
            for _ in range(2):
                folder = self._nfs.node(call)
                folders.append((folder, self._nfs.folder(folder)))
                names.append(self._new_name(call))
            self._move(folders[0][0], names[0], folders[1][0], names[1])
        except Refused as refused:
            status = refused.status
        except OSError as error:
            status = status_of(error)
        told = [self._nfs.changed(*one) for one in folders]
        return [u32(status), *told, *[u32(0) * 2] * (2 - len(told))]

    def _move(self, source: Node, name: bytes, target: Node, new_name: bytes) -> None:
        replaced = None
        with contextlib.suppress(OSError):
            found = os.lstat(target.path + b"/" + new_name)
            replaced = self._tree.child(target, new_name, found) if found.st_nlink <= 1 else None
        os.rename(source.path + b"/" + name, target.path + b"/" + new_name)
        moved = os.lstat(target.path + b"/" + new_name)
        if self._tree.child(target, new_name, moved) is not replaced and replaced is not None:
            self._tree.forget(replaced)

    def _link(self, call: Reader) -> list[bytes]:
        node, folder, earlier = None, None, None
        status = 0
        try:
            node, folder = self._nfs.node(call), self._nfs.node(call)
            earlier = self._nfs.folder(folder)
            name = self._new_name(call)
            self._tree.look(node)
            os.link(node.path, folder.path + b"/" + name, follow_symlinks=False)
        except Refused as refused:
            status = refused.status
        except OSError as error:
            status = status_of(error)
        shown = u32(0) if node is None else self._nfs.after(node)
        wcc = before(None) + u32(0) if folder is None else self._nfs.changed(folder, earlier)
        return [u32(status), shown, wcc]


def _set_mode(path: bytes, mode: int, found: os.stat_result) -> None:
    """Without the bits by which a program has its owner's rights: it would on the host, too. A
    folder gets them as what is open is one, whatever was put into its place meanwhile."""
    plain = mode & ~(stat.S_ISUID | stat.S_ISGID)
    if mode != plain and stat.S_ISDIR(found.st_mode):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(PermissionError):  # its owner may not read it
            descriptor = os.open(path, flags)
            try:
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
            return
    os.chmod(path, plain)

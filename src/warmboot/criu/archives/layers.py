"""The changes of a container to its own file system, as a tar file.

A checkpoint holds memory, not files: a process that had a changed file open can only be restored
where that file is. Docker's overlay driver keeps the changes in a folder of their own, the deleted
files as character devices 0/0, and folders that hide what the image has there with an attribute.

The tar is as plain ones are (pax), so whatever reads tars reads it. Two things have no place in
that format, and stand in records of our own: sockets, which are empty files with
``WARMBOOT.kind``, and times to the nanosecond. Files with holes are in GNU's sparse format 1.0.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from warmboot.model.errors import NotSupported

KIND, SOCKET = "WARMBOOT.kind", "socket"
XATTR = "SCHILY.xattr."
OPAQUE = "trusted.overlay.opaque"
BLOCK = 512
ENCODING, ERRORS = "utf-8", "surrogateescape"
MAX_SIZE = 1 << 50
MAX_RECORDS = 4 << 20
MAX_EXTENTS = 100_000
CARRIED = ("user.",)
CARRIED_NAMES = frozenset(
    (OPAQUE, "security.capability", "system.posix_acl_access", "system.posix_acl_default")
)
_OF_THE_HOST = ("security.selinux", "security.ima", "security.evm", "security.SMACK64")
_OF_THE_OVERLAY = tuple(
    f"trusted.overlay.{name}" for name in ("origin", "impure", "nlink", "upper", "uuid")
)
IMPORTED = "trusted.warmboot.imported"
"""On the folder of a container's changes: they are an archive's."""

_DEVICES = frozenset(((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)))
_PSEUDO_TERMINALS = 136

OpenFile = Callable[[str], IO[bytes]]
"""Opens a changed file to be read, by its path."""


def may_have(kind: str, major: int, minor: int) -> bool:
    """Whether a container may use such a device: those that Docker lets every container have."""
    return kind == "c" and ((major, minor) in _DEVICES or major == _PSEUDO_TERMINALS)


@dataclass(frozen=True, slots=True)
class Changes:
    """What ``pack_changes`` is going to write, and the paths that the container has deleted."""

    size_bytes: int
    deleted: tuple[str, ...]


@dataclass
class _Packed:
    tar: tarfile.TarFile
    open_file: OpenFile
    is_written: bool = True
    size_bytes: int = 0
    deleted: list[str] = field(default_factory=list)
    links: dict[tuple[int, int], str] = field(default_factory=dict)

    def add(self, member: tarfile.TarInfo, content: IO[bytes] | None = None) -> None:
        if self.is_written:
            self.tar.members = []  # type: ignore[attr-defined]  # or it would keep them all
            self.tar.addfile(member, content)
            return
        self.size_bytes += len(member.tobuf(tarfile.PAX_FORMAT, ENCODING, ERRORS))
        if content is not None:
            self.size_bytes += member.size + -member.size % BLOCK


def open_plain(path: str) -> IO[bytes]:
    return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")  # noqa: PTH123


def pack_changes(
    upper: Path, target: IO[bytes], open_file: OpenFile = open_plain
) -> tuple[str, ...]:
    """Write the changes in ``upper`` to ``target`` as a tar; the deleted paths.

    ``NotSupported`` names what cannot travel. The same changes are the same bytes.
    """
    with _tar_of(target) as tar:
        packed = _Packed(tar, open_file)
        _add_all(packed, upper)
    return tuple(packed.deleted)


def measure_changes(upper: Path) -> Changes:
    """``NotSupported`` names what cannot travel; quickly, as no content is read."""
    with _tar_of(io.BytesIO()) as tar:
        packed = _Packed(tar, open_plain, is_written=False)
        _add_all(packed, upper)
    size_bytes = packed.size_bytes + 2 * BLOCK
    return Changes(size_bytes + -size_bytes % tarfile.RECORDSIZE, tuple(packed.deleted))


def _add_all(packed: _Packed, upper: Path) -> None:
    for path, name in _all_of(upper):
        _add(packed, path, name)


def _tar_of(target: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(
        fileobj=target, mode="w|", format=tarfile.PAX_FORMAT, encoding=ENCODING, errors=ERRORS
    )


def _all_of(upper: Path) -> Iterator[tuple[str, str]]:
    yield str(upper), "."
    yield from _below(str(upper), "")


def _is_deletion(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, ValueError) as error:
        raise _cannot_travel(name, str(error)) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise _cannot_travel(name, error.strerror or str(error)) from error


def _below(folder: str, inside: str) -> Iterator[tuple[str, str]]:
    """All that is in it: a folder before what it has, everything in the order of names."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 (names, not paths)
    except OSError as error:
        raise _cannot_travel(inside or "/", error.strerror or str(error)) from error
    for name in names:
        path, within = f"{folder}/{name}", f"{inside}/{name}".lstrip("/")
        yield path, within
        if stat.S_ISDIR(os.lstat(path).st_mode):
            yield from _below(path, within)


def _add(packed: _Packed, path: str, name: str) -> None:
    with _named(name):
        status = os.lstat(path)
        if _is_deletion(status):
            packed.deleted.append(f"/{name}")
            return
        member = _member(packed, path, name, status)
        if not member.isreg() or not status.st_size or KIND in member.pax_headers:
            packed.add(member)
            return
        with packed.open_file(path) as file:
            _add_content(packed, member, file, status)


def _member(packed: _Packed, path: str, name: str, status: os.stat_result) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    mode = status.st_mode
    member.mode, member.uid, member.gid = stat.S_IMODE(mode), status.st_uid, status.st_gid
    member.mtime = status.st_mtime_ns // 10**9
    seconds, rest = divmod(abs(status.st_mtime_ns), 10**9)
    sign = "-" if status.st_mtime_ns < 0 else ""
    records = {"mtime": f"{sign}{seconds}.{rest:09}"} if rest else {}
    if not stat.S_ISDIR(mode) and status.st_nlink > 1:
        inode = (status.st_dev, status.st_ino)
        first = packed.links.setdefault(inode, name)
        if first != name:
            member.type, member.linkname = tarfile.LNKTYPE, first
            return member
    if stat.S_ISDIR(mode):
        member.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)  # noqa: PTH115 (a name)
    elif stat.S_ISFIFO(mode):
        member.type = tarfile.FIFOTYPE
    elif stat.S_ISSOCK(mode):
        records[KIND] = SOCKET
    elif not stat.S_ISREG(mode):
        member.type = tarfile.CHRTYPE if stat.S_ISCHR(mode) else tarfile.BLKTYPE
        member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        kind = "c" if stat.S_ISCHR(mode) else "b"
        if not may_have(kind, member.devmajor, member.devminor):
            which = f"{kind} {member.devmajor}:{member.devminor}"
            raise _cannot_travel(name, f"it is the device {which}, which containers may not have")
    for key, value in _attributes(path, name):
        records[f"{XATTR}{key}"] = value.decode("utf-8", "surrogateescape")
    member.pax_headers = records
    if status.st_size >= MAX_SIZE:
        raise _cannot_travel(name, f"it has {status.st_size} bytes, holes included")
    if sum(len(key) + len(value.encode(ENCODING, ERRORS)) for key, value in records.items()) > (
        MAX_RECORDS // 2
    ):
        raise _cannot_travel(name, "its attributes are too long")
    return member


def _attributes(path: str, name: str) -> Iterator[tuple[str, bytes]]:
    for key in os.listxattr(path, follow_symlinks=False):
        if key in CARRIED_NAMES or key.startswith(CARRIED):
            if "=" in key:
                raise _cannot_travel(name, f"its attribute {key!r} has an equals sign in its name")
            value = os.getxattr(path, key, follow_symlinks=False)
            if key == OPAQUE and value != b"y":
                raise _cannot_travel(name, f"its attribute {key} is {value!r}")
            yield key, value
        elif key not in (*_OF_THE_HOST, *_OF_THE_OVERLAY, IMPORTED):
            raise _cannot_travel(name, f"it has the attribute {key}")


def _add_content(
    packed: _Packed, member: tarfile.TarInfo, file: IO[bytes], status: os.stat_result
) -> None:
    size = status.st_size
    extents = _extents(file, size) if status.st_blocks * BLOCK < size else []
    if not extents:
        member.size = size
        packed.add(member, file)
        return
    numbers = [len(extents), *(number for extent in extents for number in extent)]
    head = "".join(f"{number}\n" for number in numbers).encode()
    head += bytes(-len(head) % BLOCK)
    member.size = len(head) + sum(length for _, length in extents)
    member.pax_headers = {
        **member.pax_headers,
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": member.name,
        "GNU.sparse.realsize": str(size),
    }
    packed.add(member, cast(IO[bytes], _Extents(file, head, extents)))


def _extents(file: IO[bytes], size: int) -> list[tuple[int, int]]:
    """Where it has data; none when that is all of it, or cannot be told, or in too many places."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                return []
            break
        at = min(os.lseek(file.fileno(), begin, os.SEEK_HOLE), size)
        found.append((begin, at - begin))
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    if len(found) > MAX_EXTENTS or found == [(0, size)]:
        return []
    return found or [(size, 0)]


class _Extents(io.RawIOBase):
    """The map of a file with holes, and then its data, as one stream."""

    def __init__(self, file: IO[bytes], head: bytes, extents: list[tuple[int, int]]) -> None:
        self._file = file
        self._head = head
        self._extents = iter(extents)
        self._left = 0

    def read(self, size: int = -1, /) -> bytes:
        found = b""
        while len(found) < size:
            if self._head:
                part, self._head = self._head[: size - len(found)], self._head[size - len(found) :]
            elif self._left:
                part = self._file.read(min(self._left, size - len(found)))
                self._left -= len(part)
            else:
                extent = next(self._extents, None)
                if extent is None:
                    break
                self._file.seek(extent[0])
                self._left = extent[1]
                continue
            if not part:
                raise OSError(errno.EIO, "it became shorter while it was being read")
            found += part
        return found


def _cannot_travel(name: str, why: str) -> NotSupported:
    shown = os.fsencode(name).decode("utf-8", "backslashreplace")
    return NotSupported(
        f"/{shown.lstrip('/')} cannot be exported",
        details=why,
        resolution="have the worker remove it or keep it in a mount, pause it again, then export",
    )

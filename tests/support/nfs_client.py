"""A client of NFS version 3, as far as tests need one: what it says is on the wire."""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from dataclasses import dataclass

from warmboot.folder_server.xdr import Reader, opaque, u32, u64

MOUNT, NFS = 100005, 100003
KEEP = u32(0) * 6
"""``sattr3`` that changes nothing."""


class NfsError(Exception):
    """A procedure's status is not 0."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Attributes:
    kind: int
    mode: int
    links: int
    uid: int
    size: int
    fileid: int
    mtime_s: int

    @classmethod
    def read(cls, answer: Reader) -> Attributes:
        kind, mode, links, uid, _ = (answer.u32() for _ in range(5))
        size, _, _, _, fileid = (answer.u64() for _ in range(5))
        times = [answer.u32() for _ in range(6)]
        return cls(kind, mode, links, uid, size, fileid, times[2])


class NfsClient:
    """Of the server at ``address``. Each call waits for its answer."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._sock = _from_a_port_of_roots(address)
        self._stream = self._sock.makefile("rb")
        self._xids = itertools.count(1)

    def close(self) -> None:
        self._stream.close()
        self._sock.close()

    def send(self, data: bytes) -> None:
        """As it is."""
        self._sock.sendall(data)

    def ended(self) -> bool:
        """Whether the server has hung up."""
        return self._stream.read(1) == b""

    def call(self, program: int, procedure: int, *arguments: bytes) -> Reader:
        """The results; ``AssertionError`` where the call itself was refused."""
        head = struct.pack(">IIIIII", next(self._xids), 0, 2, program, 3, procedure)
        record = head + u32(0) * 4 + b"".join(arguments)
        self.send(u32(len(record) | 1 << 31) + record)
        size = int.from_bytes(self._stream.read(4), "big") & 0x7FFFFFFF
        answer = Reader(self._stream.read(size))
        assert answer.u32() == int.from_bytes(head[:4], "big")
        assert [answer.u32() for _ in range(5)] == [1, 0, 0, 0, 0], "the call was refused"
        return answer

    def done(self, procedure: int, *arguments: bytes) -> Reader:
        answer = self.call(NFS, procedure, *arguments)
        if (status := answer.u32()) != 0:
            raise NfsError(status)
        return answer

    def mount(self, name: str) -> bytes:
        answer = self.call(MOUNT, 1, opaque(f"/{name}".encode()))
        if (status := answer.u32()) != 0:
            raise NfsError(status)
        return answer.opaque(64)

    def attributes(self, handle: bytes) -> Attributes:
        return Attributes.read(self.done(1, opaque(handle)))

    def lookup(self, folder: bytes, name: str) -> bytes:
        return self.done(3, opaque(folder), opaque(name.encode())).opaque(64)

    def walk(self, folder: bytes, path: str) -> bytes:
        for name in path.split("/"):
            folder = self.lookup(folder, name)
        return folder

    def access(self, handle: bytes) -> int:
        answer = self.done(4, opaque(handle), u32(63))
        answer.u32()
        Attributes.read(answer)
        return answer.u32()

    def read(self, handle: bytes, offset: int = 0, count: int = 1 << 20) -> bytes:
        answer = self.done(6, opaque(handle), u64(offset), u32(count))
        answer.u32()
        Attributes.read(answer)
        answer.u32(), answer.u32()
        return answer.opaque(1 << 20)

    def write(self, handle: bytes, data: bytes, offset: int = 0, stable: int = 2) -> None:
        how = u64(offset) + u32(len(data)) + u32(stable)
        self.done(7, opaque(handle), how, opaque(data))

    def commit(self, handle: bytes) -> None:
        self.done(21, opaque(handle), u64(0), u32(0))

    def create(self, folder: bytes, name: str, mode: int = 0o644) -> bytes:
        wanted = u32(1) + u32(mode) + u32(0) * 5
        answer = self.done(8, opaque(folder), opaque(name.encode()), u32(1), wanted)
        assert answer.u32() == 1
        return answer.opaque(64)

    def create_once(self, folder: bytes, name: str, verifier: bytes) -> bytes:
        answer = self.done(8, opaque(folder), opaque(name.encode()), u32(2), verifier)
        assert answer.u32() == 1
        return answer.opaque(64)

    def set(self, handle: bytes, *, mode: int | None = None, uid: int | None = None,
            size: int | None = None) -> None:  # fmt: skip
        wanted = _optional(mode, u32) + _optional(uid, u32) * 2 + _optional(size, u64) + u32(0) * 2
        self.done(2, opaque(handle), wanted, u32(0))

    def make_folder(self, folder: bytes, name: str) -> bytes:
        answer = self.done(9, opaque(folder), opaque(name.encode()), KEEP)
        assert answer.u32() == 1
        return answer.opaque(64)

    def link_to(self, folder: bytes, name: str, target: str) -> None:
        self.done(10, opaque(folder), opaque(name.encode()), KEEP, opaque(target.encode()))

    def make_node(self, folder: bytes, name: str, kind: int) -> None:
        self.done(11, opaque(folder), opaque(name.encode()), u32(kind), KEEP, u32(0) * 2)

    def remove(self, folder: bytes, name: str) -> None:
        self.done(12, opaque(folder), opaque(name.encode()))

    def rename(self, folder: bytes, name: str, target: bytes, new_name: str) -> None:
        places = opaque(folder), opaque(name.encode()), opaque(target), opaque(new_name.encode())
        self.done(14, *places)

    def list(self, folder: bytes, most: int = 4096) -> list[str]:
        """All names, by ``READDIRPLUS``, a piece of ``most`` bytes after the other."""
        names: list[str] = []
        cookie, verifier = 0, bytes(8)
        while True:
            asked = u64(cookie) + verifier + u32(most) + u32(most)
            answer = self.done(17, opaque(folder), asked)
            if answer.u32():
                Attributes.read(answer)
            verifier = answer.fixed(8)
            while answer.u32():
                answer.u64()
                names.append(answer.opaque(255).decode())
                cookie = answer.u64()
                if answer.u32():
                    Attributes.read(answer)
                if answer.u32():
                    answer.opaque(64)
            if answer.u32():
                return names


def _optional(value: int | None, packed: object) -> bytes:
    assert callable(packed)
    return u32(0) if value is None else u32(1) + bytes(packed(value))


def _from_a_port_of_roots(address: tuple[str, int]) -> socket.socket:
    """As a kernel's client has it; the first that nobody has."""
    for port in range(1023, 511, -1):
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            sock.settimeout(60)
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise
    raise AssertionError("somebody has all ports below 1024")

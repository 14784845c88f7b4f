"""External Data Representation (RFC 4506): big-endian, in units of four bytes."""

from __future__ import annotations

import struct

_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")


class Malformed(Exception):
    """What came is not what the protocol says."""


class Reader:
    """Takes values from the front of ``data``. ``Malformed`` where they end early."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def u32(self) -> int:
        at, self._at = self._at, self._at + 4
        try:
            (value,) = _U32.unpack_from(self._data, at)
        except struct.error as error:
            raise Malformed("a number is missing") from error
        return int(value)

    def u64(self) -> int:
        at, self._at = self._at, self._at + 8
        try:
            (value,) = _U64.unpack_from(self._data, at)
        except struct.error as error:
            raise Malformed("a long number is missing") from error
        return int(value)

    def opaque(self, most: int) -> bytes:
        """Bytes with their length before them, ``most`` at most."""
        size = self.u32()
        if size > most:
            raise Malformed(f"{size} bytes are more than {most}")
        return self.fixed(size)

    def fixed(self, size: int) -> bytes:
        at = self._at
        if at + size > len(self._data):
            raise Malformed("bytes are missing")
        self._at = at + size + (-size % 4)
        return self._data[at : at + size]


def u32(value: int) -> bytes:
    return _U32.pack(value)


def u64(value: int) -> bytes:
    return _U64.pack(value)


def opaque(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data + bytes(-len(data) % 4)

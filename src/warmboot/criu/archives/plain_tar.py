"""Reads an untrusted tar file, and extracts only plain files.

Python's tarfile understands every extension that tar ever had: links, devices, sparse files,
headers of any length. An archive of ours needs none of them, so this reader knows the 512-byte
header, its checksum and two number formats, and refuses the rest. It never writes; its caller
decides where a file goes, and gets the size before the first byte.

The layer of changed files that goes with a checkpoint may have more; ``layer_tar`` reads that.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

from warmboot.model.errors import InvalidRequest

BLOCK = 512
CHUNK = 1 << 20
_REGULAR, _FOLDER = (b"0", b"\0"), (b"5",)
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a FIFO",
    b"S": "a sparse file",
    b"L": "a long name",
    b"K": "a long name",
    b"x": "an extended header",
    b"g": "an extended header",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file. Its ``chunks`` must be read to the end before the next member is asked for."""

    name: str
    size: int
    chunks: Iterator[bytes]


def members(stream: IO[bytes], max_members: int) -> Iterator[Member]:
    """The plain files of a tar, in order; ``InvalidRequest`` at the first thing that is not one.

    Folders are passed over: a name says already where a file belongs.
    """
    count = 0
    while True:
        header = exactly(stream, BLOCK)
        if not header.strip(b"\0"):
            return
        count += 1
        if count > max_members:
            raise hostile(f"it has more than {max_members} members")
        path, size, kind = parse_header(header)
        try:
            name = path.decode()
        except UnicodeDecodeError as error:
            raise hostile("a name is not plain text") from error
        if kind in _FOLDER:
            if size:
                raise hostile(f"the folder {name!r} has content")
            continue
        if kind not in _REGULAR:
            what = _KINDS.get(kind, f"a member of kind {kind!r}")
            raise hostile(f"{name!r} is {what}")
        chunks = content(stream, size)
        yield Member(name, size, chunks)
        for _ in chunks:
            pass  # whatever the caller has not read


def hostile(details: str) -> InvalidRequest:
    return InvalidRequest(
        "the archive is refused",
        details=details,
        resolution="use an archive that warmboot exported; this one is damaged or foreign",
    )


def parse_header(header: bytes) -> tuple[bytes, int, bytes]:
    """Name, size and kind of a member; ``InvalidRequest`` when the header is damaged."""
    expected = octal(header[148:156])
    actual = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
    if expected != actual:
        raise hostile("a header's checksum is wrong")
    if header[257:262] == b"ustar" and header[263:265] == b"00" and header[345:500].strip(b"\0"):
        raise hostile("a name is too long")
    return header[:100].rstrip(b"\0"), _size(header[124:136]), header[156:157]


def _size(field: bytes) -> int:
    if field[0] == 0x80:  # GNU: 8 GiB and more, as a big-endian number
        return int.from_bytes(field[1:], "big")
    return octal(field)


def octal(field: bytes) -> int:
    text = field.strip(b" \0")
    if not text:
        return 0
    try:
        number = int(text, 8)
    except ValueError as error:
        raise hostile("a header has something else where a number belongs") from error
    if number < 0:
        raise hostile("a header has a negative number")
    return number


def content(stream: IO[bytes], size: int) -> Iterator[bytes]:
    left = size
    while left:
        chunk = stream.read(min(CHUNK, left))
        if not chunk:
            raise hostile("it is cut off")
        left -= len(chunk)
        yield chunk
    if size % BLOCK:
        exactly(stream, BLOCK - size % BLOCK)


def exactly(stream: IO[bytes], length: int) -> bytes:
    found = b""
    while len(found) < length:
        more = stream.read(length - len(found))
        if not more:
            raise hostile("it is cut off")
        found += more
    return found


class Summed(io.RawIOBase):
    """The chunks of a member as a stream, with the SHA-256 of all that was read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        target = memoryview(cast(bytearray, buffer))
        if not self._rest:
            chunk = next(self._chunks, b"")
            self._digest.update(chunk)
            self._rest = memoryview(chunk)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def finish(self) -> str:
        """Read what is left; the sum."""
        for chunk in self._chunks:
            self._digest.update(chunk)
        return self._digest.hexdigest()

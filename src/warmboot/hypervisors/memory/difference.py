"""A difference: the pages in which one memory differs from another, as a file.

    ┌────────┬─────────┬─ … ─┬─────────┬─────────┬───────────┬─ … ─┐
    │ header │ range 0 │     │ SHA-256 │ padding │ pages of  │     │
    │        │         │     │         │ to 4096 │ range 0   │     │
    └────────┴─────────┴─ … ─┴─────────┴─────────┴───────────┴─ … ─┘

A base, laid over with a difference, gives the memory, which may be of another length: whole pages,
zeros beyond the base's end. Without a base it lies over zeros. A difference from a memory that is
itself a base and a difference can be merged with that one, so there is never a chain of them.

The index comes first and has a sum of its own, so that a file can be read as a stream, also while
it is stored as frames (``frames``). The pages' sum is kept with the file's, as for all parts of a
snapshot, and nothing is laid over a base before that was compared.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from warmboot.hypervisors.memory.frames import FRAME_BYTES, PAGE, Frames, damaged
from warmboot.hypervisors.memory.own_pages import Ranges
from warmboot.system.on_failure import on_failure

if TYPE_CHECKING:
    from pathlib import Path

_HEADER = struct.Struct("<8sIIQQ")
_RANGE = struct.Struct("<II")
_MAGIC, _VERSION = b"WBMEMDIF", 1
_SUM_BYTES = 32
_ZERO_PAGE = bytes(PAGE)

PIECE_BYTES = FRAME_BYTES
"""Pages are read and written in pieces of at most so many bytes."""

Fill = Callable[[memoryview, Ranges], None]
"""Fills a buffer with what a memory has in these ranges, one after the other."""


class Index(NamedTuple):
    """``memory_bytes`` is the whole memory's length; ``pages_at``: where the first page is."""

    memory_bytes: int
    ranges: Ranges
    pages_at: int

    @property
    def own_bytes(self) -> int:
        return sum(end - start for start, end in self.ranges)


def write(path: Path, memory_bytes: int, ranges: Ranges, fill: Fill) -> None:
    """Write the new file ``path``; it is removed again if that fails. ``OSError``; blocking."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with on_failure(lambda: path.unlink(missing_ok=True)):
            write_all(file, _pack_index(memory_bytes, ranges))
            buffer = memoryview(bytearray(PIECE_BYTES))
            for some in _batches(ranges):
                part = buffer[: sum(end - start for start, end in some)]
                fill(part, some)
                write_all(file, part)
    finally:
        os.close(file)


class Difference:
    """A difference that is open for reading, plain or stored as frames. ``SnapshotDamaged``."""

    def __init__(self, path: Path, *, compressed: bool = False) -> None:
        self._file = Frames(path) if compressed else _Plain(path)
        self._frame: tuple[int, bytes] = (-1, b"")
        self.path = path
        with on_failure(self.close):
            self.index = self._load_index()

    def __enter__(self) -> Difference:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """All of it in order: an offset in memory, and what stands there from it on."""
        at = self.index.pages_at
        for start, end in pieces(self.index.ranges):
            yield start, self._read(at, end - start)
            at += end - start

    def _read(self, offset: int, length: int) -> bytes:
        parts = []
        while length:
            number, skipped = divmod(offset, FRAME_BYTES)
            if self._frame[0] != number:
                self._frame = (number, self._file.read(number))
            part = self._frame[1][skipped : skipped + length]
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def _load_index(self) -> Index:
        size = self._file.plain_bytes
        if size < _HEADER.size:
            raise damaged(self.path, f"it has {size} bytes")
        header = self._read(0, _HEADER.size)
        magic, version, page, memory_bytes, count = _HEADER.unpack(header)
        if (magic, version, page) != (_MAGIC, _VERSION, PAGE):
            raise damaged(self.path, "it does not begin with the index of a difference")
        pages_at = _pages_at(count)
        if size < pages_at:
            raise damaged(self.path, f"it ends at {size} bytes, within its index")
        table = self._read(_HEADER.size, count * _RANGE.size)
        total = self._read(_HEADER.size + len(table), _SUM_BYTES)
        if hashlib.sha256(header + table).digest() != total:
            raise damaged(self.path, "its index is not what it was: its sum differs")
        # Whole and as it was written: the ranges are in order, apart and within the memory.
        ranges = [
            (first * PAGE, (first + pages) * PAGE) for first, pages in _RANGE.iter_unpack(table)
        ]
        index = Index(memory_bytes, ranges, pages_at)
        if size != pages_at + index.own_bytes:
            wanted = pages_at + index.own_bytes
            raise damaged(self.path, f"it has {size} bytes instead of {wanted}")
        return index


def merge(lower: Difference, upper: Difference, target: Path) -> None:
    """Write ``upper``, which is over the memory that ``lower`` gives, as one over the base of
    ``lower``. ``OSError``; blocking."""
    end, below_end = upper.index.memory_bytes, lower.index.memory_bytes
    # Where the memory grew there are zeros, whatever the base has there.
    grown = [(below_end, end)] if below_end < end else []
    ranges = _union([*_clipped(lower.index.ranges, end), *grown, *upper.index.ranges])
    below, above = _Cursor(lower), _Cursor(upper)

    def fill(buffer: memoryview, some: Ranges) -> None:
        filled = 0
        for start, end in some:
            for at in range(start, end, PAGE):
                buffer[filled : filled + PAGE] = above.at(at) or below.at(at) or _ZERO_PAGE
                filled += PAGE

    write(target, end, ranges, fill)


def pieces(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ranges, cut where they are longer than ``PIECE_BYTES``."""
    for start, end in ranges:
        while end - start > PIECE_BYTES:
            yield start, start + PIECE_BYTES
            start += PIECE_BYTES
        yield start, end


def _batches(ranges: Ranges) -> Iterator[Ranges]:
    """The same pieces, as many at a time as go into ``PIECE_BYTES``."""
    some: Ranges = []
    used = 0
    for start, end in pieces(ranges):
        if used + end - start > PIECE_BYTES:
            yield some
            some, used = [], 0
        some.append((start, end))
        used += end - start
    if some:
        yield some


def write_all(file: int, content: bytes | memoryview) -> None:
    content = memoryview(content)
    while content:
        content = content[os.write(file, content) :]


class _Cursor:
    """One page of a difference after the other, asked for in ascending order."""

    def __init__(self, difference: Difference) -> None:
        self._pieces = difference.pages()
        self._start, self._content = 0, b""

    def at(self, offset: int) -> bytes | None:
        while self._start + len(self._content) <= offset:
            found = next(self._pieces, None)
            if found is None:
                return None
            self._start, self._content = found
        if offset < self._start:
            return None
        return self._content[offset - self._start : offset - self._start + PAGE]


class _Plain:
    """A plain file, read as frames are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise damaged(path, f"it cannot be opened: {error.strerror}") from error
        self.plain_bytes = os.fstat(self._file).st_size

    def read(self, number: int) -> bytes:
        try:
            content = os.pread(self._file, FRAME_BYTES, number * FRAME_BYTES)
        except OSError as error:
            raise damaged(self._path, f"it cannot be read: {error.strerror}") from error
        if len(content) != min(FRAME_BYTES, self.plain_bytes - number * FRAME_BYTES):
            raise damaged(self._path, "it became shorter while it was read")
        return content

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _pack_index(memory_bytes: int, ranges: Ranges) -> bytes:
    body = _HEADER.pack(_MAGIC, _VERSION, PAGE, memory_bytes, len(ranges)) + b"".join(
        _RANGE.pack(start // PAGE, (end - start) // PAGE) for start, end in ranges
    )
    return (body + hashlib.sha256(body).digest()).ljust(_pages_at(len(ranges)), b"\0")


def _pages_at(count: int) -> int:
    used = _HEADER.size + count * _RANGE.size + _SUM_BYTES
    return -(-used // PAGE) * PAGE


def _clipped(ranges: Ranges, limit: int) -> Ranges:
    return [(start, min(end, limit)) for start, end in ranges if start < limit]


def _union(ranges: Ranges) -> Ranges:
    joined: Ranges = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined

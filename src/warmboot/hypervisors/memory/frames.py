"""``snapshot.mem.zst``: guest memory as zstd frames that can be read independently.

    ┌─────────┬─────────┬─ … ─┬───────────────────────────────────────────────┐
    │ frame 0 │ frame 1 │     │ index, in a skippable frame                   │
    └─────────┴─────────┴─ … ─┴───────────────────────────────────────────────┘
      1 MiB of   the next         header │ an entry for each frame │ SHA-256 │ tail
      memory     MiB                       length, digest, page mask

Each frame holds one MiB of memory, so ``zstd -dc`` gives the plain file back. An entry's digest is
of the frame as it is stored, and is compared before anything is decompressed; its mask has a bit
for each page that is not all zero. Zero pages need not be written out again, and a frame without a
bit (some 50 bytes) is not even decompressed. Whatever is flipped or cut off is found: it is under a
digest, under the index's own sum, or a constant.

One MiB and level 7 were measured on a Linux guest with Docker (``docs/decisions/0018``): what
larger frames spare is not worth the time of a page fault, and smaller ones take more room.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

import zstandard

from warmboot.model.errors import SnapshotDamaged
from warmboot.system.on_failure import on_failure

if TYPE_CHECKING:  # a page server starts for every VM, and starts quicker without
    from pathlib import Path

PAGE = 4096
FRAME_BYTES = 1 << 20
LEVEL = 7

_PAGES = FRAME_BYTES // PAGE
_MASK_BYTES = _PAGES // 8
_DIGEST_BYTES = 16
# A skippable frame: RFC 8878, 3.1.2. Any of 0x184D2A50 to 0x184D2A5F marks one.
_SKIPPABLE = struct.Struct("<II")
_SKIPPABLE_MAGIC = 0x184D2A5B
_HEADER = struct.Struct("<8sIIQI")
_ENTRY = struct.Struct(f"<I{_DIGEST_BYTES}s{_MASK_BYTES}s")
_TAIL = struct.Struct("<I8s")
_MAGIC, _TAIL_MAGIC, _VERSION = b"WBMEMFRM", b"WBMEMEND", 1
_SUM_BYTES = 32
_ZERO_PAGE = bytes(PAGE)


class Entry(NamedTuple):
    """The place of a frame in the file, its digest, and which of its pages are not all zero."""

    offset: int
    length: int
    digest: bytes
    mask: int


def runs_of(mask: int) -> list[tuple[int, int]]:
    """Runs of pages whose bits are set, as offsets (start, end) in bytes."""
    found, page = [], 0
    while mask:
        zeros = (mask & -mask).bit_length() - 1
        mask >>= zeros
        page += zeros
        ones = (~mask & (mask + 1)).bit_length() - 1
        found.append((page * PAGE, (page + ones) * PAGE))
        mask >>= ones
        page += ones
    return found


def mask_of(content: bytes) -> int:
    """A bit for each page of ``content`` that is not all zero; the last may be short."""
    mask = 0
    for number in range((len(content) + PAGE - 1) // PAGE):
        page = content[number * PAGE : (number + 1) * PAGE]
        if page != (_ZERO_PAGE if len(page) == PAGE else _ZERO_PAGE[: len(page)]):
            mask |= 1 << number
    return mask


def digest_of(stored: bytes) -> bytes:
    return hashlib.sha256(stored).digest()[:_DIGEST_BYTES]


def frame_count(plain_bytes: int) -> int:
    return (plain_bytes + FRAME_BYTES - 1) // FRAME_BYTES


def pack_index(plain_bytes: int, entries: list[Entry]) -> bytes:
    """The index of all frames, as the skippable frame that ends the file."""
    parts = [_HEADER.pack(_MAGIC, _VERSION, FRAME_BYTES, plain_bytes, len(entries))]
    parts += [
        _ENTRY.pack(e.length, e.digest, e.mask.to_bytes(_MASK_BYTES, "little")) for e in entries
    ]
    body = b"".join(parts)
    size = len(body) + _SUM_BYTES + _TAIL.size
    return b"".join(
        (
            _SKIPPABLE.pack(_SKIPPABLE_MAGIC, size),
            body,
            hashlib.sha256(body).digest(),
            _TAIL.pack(size, _TAIL_MAGIC),
        )
    )


class Frames:
    """An open file of frames. Reading is thread-safe; ``SnapshotDamaged`` for what is not whole."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise damaged(path, f"it cannot be opened: {error.strerror}") from error
        with on_failure(self.close):
            self.plain_bytes, self.entries = self._load_index()

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def plain_length(self, number: int) -> int:
        """How much memory a frame holds: less than ``FRAME_BYTES`` for the last one only."""
        return min(FRAME_BYTES, self.plain_bytes - number * FRAME_BYTES)

    def read(self, number: int) -> bytes:
        """The memory in a frame."""
        entry = self.entries[number]
        length = self.plain_length(number)
        stored = self._pread(entry.offset, entry.length)
        if digest_of(stored) != entry.digest:
            raise damaged(self.path, f"frame {number} is not what it was: its digest differs")
        if not entry.mask:
            return bytes(length)
        try:
            # One each time, as they are not thread-safe: that takes some microseconds.
            plain = zstandard.ZstdDecompressor().decompress(stored, max_output_size=length)
        except zstandard.ZstdError as error:
            raise damaged(self.path, f"frame {number}: {error}") from error
        if len(plain) != length:
            raise damaged(self.path, f"frame {number} has {len(plain)} bytes instead of {length}")
        return plain

    def _pread(self, offset: int, length: int) -> bytes:
        try:
            content = os.pread(self._file, length, offset)
        except OSError as error:
            raise damaged(self.path, f"it cannot be read: {error.strerror}") from error
        if len(content) != length:
            raise damaged(self.path, f"it ends at {offset + len(content)} bytes")
        return content

    def _load_index(self) -> tuple[int, list[Entry]]:
        size = os.fstat(self._file).st_size
        least = _SKIPPABLE.size + _HEADER.size + _SUM_BYTES + _TAIL.size
        if size < least:
            raise damaged(self.path, f"it has {size} bytes")
        length, magic = _TAIL.unpack(self._pread(size - _TAIL.size, _TAIL.size))
        start = size - length - _SKIPPABLE.size
        if magic != _TAIL_MAGIC or start < 0 or length + _SKIPPABLE.size < least:
            raise damaged(self.path, "it does not end with an index")
        index = self._pread(start, length + _SKIPPABLE.size)
        body = index[_SKIPPABLE.size : -_SUM_BYTES - _TAIL.size]
        total = index[-_SUM_BYTES - _TAIL.size : -_TAIL.size]
        if _SKIPPABLE.unpack_from(index) != (_SKIPPABLE_MAGIC, length):
            raise damaged(self.path, "its index is not a skippable frame")
        if hashlib.sha256(body).digest() != total:
            raise damaged(self.path, "its index is not what it was: its sum differs")
        # Whole and as it was written: what follows can only differ with another version of ours.
        magic, version, frame_bytes, plain_bytes, count = _HEADER.unpack_from(body)
        if (magic, version, frame_bytes) != (_MAGIC, _VERSION, FRAME_BYTES):
            raise damaged(self.path, f"it has format {version} with frames of {frame_bytes} bytes")
        if count != frame_count(plain_bytes) or len(body) != _HEADER.size + count * _ENTRY.size:
            raise damaged(self.path, f"its index has {count} entries")
        entries, offset = [], 0
        for stored, digest, mask in _ENTRY.iter_unpack(body[_HEADER.size :]):
            entries.append(Entry(offset, stored, digest, int.from_bytes(mask, "little")))
            offset += stored
        if offset != start:
            raise damaged(self.path, f"it has {start} bytes of frames instead of {offset}")
        return plain_bytes, entries


def damaged(path: Path | str, details: str) -> SnapshotDamaged:
    """The error for a file of a snapshot's memory, with the snapshot's own remedy."""
    folder, name = os.path.split(path)
    snapshot = os.path.basename(folder)  # noqa: PTH119 (pathlib costs milliseconds of a restore)
    return SnapshotDamaged(
        f"the snapshot {snapshot} is damaged",
        details=f"{name}: {details}",
        resolution=f"rebuild it: `warmboot snapshot rebuild {snapshot}`",
    )

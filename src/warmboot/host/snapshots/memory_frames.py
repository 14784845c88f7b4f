"""Packing ``snapshot.mem`` into frames, and unpacking it: streams, in threads, that can be stopped.

Holes of a sparse file are not read, and zero pages are not written but for small gaps: an unpacked
file is about as sparse as its content allows. Both make a new file, and remove it again if they do
not come to its end.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zstandard

from warmboot.hypervisors.memory.frames import (
    FRAME_BYTES,
    LEVEL,
    PAGE,
    Entry,
    Frames,
    damaged,
    digest_of,
    frame_count,
    mask_of,
    pack_index,
    runs_of,
)
from warmboot.model.errors import HostError
from warmboot.model.runtime_image import FileSum
from warmboot.model.runtime_snapshot import PackedMemory
from warmboot.system.concurrency import Stopped
from warmboot.system.disks import disk_full
from warmboot.system.on_failure import on_failure

UNPACK_THREADS = 2
"""More do not help: they share the bandwidth of memory with the VM that waits for them."""
_SMALL_GAP = 8 * PAGE


def pack(source: Path, target: Path, expected: FileSum, stop: threading.Event) -> PackedMemory:
    """Write ``source`` as frames to the new file ``target``, synced.

    ``SnapshotDamaged`` if its content is not the ``expected``; ``DiskFull``. Blocking.
    """
    with _opened(source) as old, made_whole(target) as new:
        size = os.fstat(old).st_size
        if size != expected.size_bytes:
            raise damaged(source, f"it has {size} bytes instead of {expected.size_bytes}")
        packer = _Packer(new)
        digest, zeros = hashlib.sha256(), bytes(FRAME_BYTES)
        for start, in_hole in _frames_of(old, size):
            if stop.is_set():
                raise Stopped
            length = min(FRAME_BYTES, size - start)
            content = zeros[:length] if in_hole else _read_exactly(source, old, start, length)
            digest.update(content)
            packer.add(content, 0 if in_hole else mask_of(content))
        if digest.hexdigest() != expected.sha256:
            raise damaged(source, "it is not what it was: its SHA-256 differs")
        packer.finish(size)
        os.fsync(new)
    return PackedMemory(plain=expected, nonzero_bytes=packer.nonzero_bytes)


def unpack(source: Path, target: Path, stop: threading.Event, *, sync: bool) -> None:
    """Write the memory in ``source`` to the new file ``target``, every frame verified.

    ``SnapshotDamaged``, ``DiskFull``. Blocking.
    """
    with Frames(source) as frames, made_whole(target) as new:
        os.ftruncate(new, frames.plain_bytes)

        def write(number: int) -> None:
            if stop.is_set():
                raise Stopped
            content = frames.read(number)
            base = number * FRAME_BYTES
            for start, end in _worth_writing(runs_of(frames.entries[number].mask)):
                write_at(new, memoryview(content)[start:end], base + start)

        with (
            ThreadPoolExecutor(UNPACK_THREADS, "snapshot-memory") as threads,
            on_failure(lambda: threads.shutdown(wait=True, cancel_futures=True)),
        ):
            for _ in threads.map(write, range(len(frames.entries))):
                pass
        if sync:
            os.fsync(new)


def _worth_writing(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The runs, joined over small gaps: zeros written cost less than another call."""
    joined: list[tuple[int, int]] = []
    for start, end in runs:
        if joined and start - joined[-1][1] <= _SMALL_GAP:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


class _Packer:
    """Compresses frames into an open file and keeps their entries."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        self._decompressor = zstandard.ZstdDecompressor()
        self._entries: list[Entry] = []
        self._offset = 0
        self._zero_frames: dict[int, bytes] = {}
        self.nonzero_bytes = 0

    def add(self, content: bytes, mask: int) -> None:
        stored = self._compress(content) if mask else self._zero_frame(len(content))
        if mask:
            self.nonzero_bytes += len(content.translate(None, b"\0"))
        write_at(self._file, memoryview(stored), self._offset)
        self._entries.append(Entry(self._offset, len(stored), digest_of(stored), mask))
        self._offset += len(stored)

    def finish(self, plain_bytes: int) -> None:
        write_at(self._file, memoryview(pack_index(plain_bytes, self._entries)), self._offset)

    def _compress(self, content: bytes) -> bytes:
        stored: bytes = self._compressor.compress(content)
        # The plain file is about to be given up: what stands for it must give it back.
        if self._decompressor.decompress(stored) != content:
            raise HostError(
                "memory does not survive its compression: this host's RAM may be faulty"
            )
        return stored

    def _zero_frame(self, length: int) -> bytes:
        if length not in self._zero_frames:
            self._zero_frames[length] = self._compressor.compress(bytes(length))
        return self._zero_frames[length]


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[int]:
    try:
        file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise damaged(source, f"it cannot be opened: {error.strerror}") from error
    try:
        yield file
    finally:
        os.close(file)


def _frames_of(file: int, size: int) -> Iterator[tuple[int, bool]]:
    """Where each frame starts, and whether all of it lies in a hole."""
    data = 0
    for number in range(frame_count(size)):
        start = number * FRAME_BYTES
        if data < start:
            data = start
        if data == start:
            try:
                data = os.lseek(file, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = size  # nothing but a hole from here on
        yield start, data >= min(start + FRAME_BYTES, size)


def _read_exactly(path: Path, file: int, start: int, length: int) -> bytes:
    content = os.pread(file, length, start)
    while len(content) < length:
        more = os.pread(file, length - len(content), start + len(content))
        if not more:
            raise damaged(path, "it became shorter while it was read")
        content += more
    return content


def write_at(file: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written


@contextlib.contextmanager
def made_whole(target: Path, *, new: bool = True) -> Iterator[int]:
    """A new file, or one that has just been begun, open for writing: it is removed if the body does
    not come to its end."""
    how = os.O_CREAT | os.O_EXCL if new else 0
    try:
        file = os.open(target, os.O_RDWR | how | os.O_CLOEXEC, 0o600)
        with on_failure(lambda: target.unlink(missing_ok=True)):
            try:
                yield file
            finally:
                os.close(file)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(target) from error
        raise HostError(f"{target} could not be made", details=str(error)) from error

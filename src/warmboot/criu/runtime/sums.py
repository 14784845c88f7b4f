"""Checksums of a checkpoint's files: made with it, checked before it is used.

They tell damage (a disk's, a hand's), not forgery: only root can write there. So CRC-32 will do, by
blocks, of which several are summed at once: the worker stands still meanwhile. Each thread reads
into one small buffer, which stays in the processor's cache. A mapped file would be as fast, but one
that is cut off meanwhile would end the manager.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from warmboot.criu.runtime.program import BLOCK_BYTES, SUMS
from warmboot.model.errors import CheckpointError

__all__ = ["BLOCK_BYTES", "SUMS", "check_sums", "crc32", "make_sums", "regular_files", "sums_of"]

try:
    from isal.isal_zlib import crc32
except ImportError:  # no build of it for this processor: the same sums, at half the speed
    from zlib import crc32

AT_ONCE = 4
_BUFFER_BYTES = 512 << 10
_buffers = threading.local()

Sums = Mapping[str, tuple[int, ...]]
"""By path in the checkpoint: a file's size, then its blocks' sums."""


def make_sums(checkpoint: Path, *folders: Path) -> None:
    """Write down those of all files in ``folders``, which are in ``checkpoint``."""
    text = json.dumps(sums_of(checkpoint, *folders))
    (checkpoint / SUMS).write_text(text)


def check_sums(checkpoint: Path, folder: Path) -> None:
    """``CheckpointError`` unless ``folder`` has what it had when the sums were made.

    A checkpoint of an earlier version has none. ``folder`` is one of those in ``checkpoint``.
    """
    if not (checkpoint / SUMS).exists():
        return
    try:
        kept = {name: tuple(sums) for name, sums in _kept(checkpoint).items()}
        found = sums_of(checkpoint, folder)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise _damaged(str(error)) from error
    inside = f"{folder.relative_to(checkpoint)}{os.sep}"
    expected = {name: sums for name, sums in kept.items() if name.startswith(inside)}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise _damaged(f"{checkpoint / name} is missing")
        if name not in expected:
            raise _damaged(f"{checkpoint / name} is none of its files")
        if found[name] != expected[name]:
            raise _damaged(f"{checkpoint / name} is not what was written")


def sums_of(checkpoint: Path, *folders: Path) -> Sums:
    with ThreadPoolExecutor(AT_ONCE, "sums") as threads:
        begun = {
            str(path.relative_to(checkpoint)): (size, threads.map(_sum_of, _blocks(path, size)))
            for folder in folders
            for path, size in regular_files(folder)
        }
        return {name: (size, *sums) for name, (size, sums) in begun.items()}


def regular_files(top: Path) -> Iterator[tuple[Path, int]]:
    """With their sizes."""
    for folder, _, names in os.walk(top):
        for path in (Path(folder, name) for name in names):
            if stat.S_ISREG((found := path.lstat()).st_mode):
                yield path, found.st_size


def _blocks(path: Path, size: int) -> Iterator[tuple[Path, range]]:
    return (
        (path, range(start, min(start + BLOCK_BYTES, size)))
        for start in range(0, size, BLOCK_BYTES)
    )


def _sum_of(block: tuple[Path, range]) -> int:
    path, part = block
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return _sum_of_zeros(len(part)) if _is_hole(descriptor, part) else _sum(descriptor, part)
    finally:
        os.close(descriptor)


def _is_hole(descriptor: int, part: range) -> bool:
    """Nothing need be read there: a worker may have a file of a terabyte with little in it."""
    try:
        return os.lseek(descriptor, part.start, os.SEEK_DATA) >= part.stop
    except OSError as error:
        if error.errno == errno.ENXIO:  # none from there to the end
            return True
        raise


@lru_cache(maxsize=16)
def _sum_of_zeros(count: int) -> int:
    return crc32(bytes(count))


def _sum(descriptor: int, part: range) -> int:
    buffer = _buffer()
    found, at = 0, part.start
    while at < part.stop and (count := os.preadv(descriptor, [buffer[: part.stop - at]], at)):
        found = crc32(buffer[:count], found)
        at += count
    return found


def _buffer() -> memoryview:
    """This thread's."""
    if not hasattr(_buffers, "view"):
        _buffers.view = memoryview(bytearray(_BUFFER_BYTES))
    found: memoryview = _buffers.view
    return found


def _kept(checkpoint: Path) -> Mapping[str, list[int]]:
    found: Mapping[str, list[int]] = json.loads((checkpoint / SUMS).read_text())
    return found


def _damaged(details: str) -> CheckpointError:
    return CheckpointError(
        "the checkpoint is damaged",
        details=details,
        resolution="delete it and resume from another one",
    )

"""Checksums of a checkpoint's files: made with it, checked before it is used.

They tell damage (a disk's, a hand's), not forgery: only root can write there. So CRC-32 will do, by
blocks, of which several are summed at once: the worker stands still meanwhile. Each thread reads
into one small buffer, which stays in the processor's cache. A mapped file would be as fast, but one
that is cut off meanwhile would end the manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from warmboot.criu.runtime.program import BLOCK_BYTES, SUMS
from warmboot.model.errors import CheckpointError

__all__ = [
    "BLOCK_BYTES",
    "SUMS",
    "advice",
    "check_sums",
    "check_unless_it_hangs",
    "compare",
    "crc32",
    "damaged",
    "kept_sums",
    "make_sums",
    "regular_files",
    "sum_of_zeros",
    "sums_of",
]

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


def check_sums(
    checkpoint: Path, folder: Path, summed: Callable[[int], object] = lambda _: None
) -> None:
    """``CheckpointError`` unless ``folder`` has what it had when the sums were made.

    A checkpoint of an earlier version has none. ``folder`` is one of those in ``checkpoint``.
    """
    kept = kept_sums(checkpoint)
    if kept is None:
        return
    try:
        found = sums_of(checkpoint, folder, summed=summed)
    except OSError as error:
        raise damaged(checkpoint, str(error)) from error
    inside = f"{folder.relative_to(checkpoint)}{os.sep}"
    expected = {name: sums for name, sums in kept.items() if name.startswith(inside)}
    compare(checkpoint, expected, found)


def compare(checkpoint: Path, expected: Mapping[str, object], found: Mapping[str, object]) -> None:
    """``CheckpointError`` unless its files, by their names, are those that were written."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise damaged(checkpoint, f"{checkpoint / name} is missing")
        if name not in expected:
            raise damaged(checkpoint, f"{checkpoint / name} is none of its files")
        if found[name] != expected[name]:
            raise damaged(checkpoint, f"{checkpoint / name} is not what was written")


async def check_unless_it_hangs(checkpoint: Path, folder: Path, hangs_after_s: float) -> None:
    """``check_sums``, given up when the disk has given nothing for so long: ``CheckpointError``.

    What hangs is left to the kernel: a read cannot be broken off. It keeps nobody from going on.
    """
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    outcome: list[BaseException] = []
    summed: list[int] = []

    def check() -> None:
        try:
            check_sums(checkpoint, folder, summed.append)
        except BaseException as error:  # noqa: BLE001 (raised again)
            outcome.append(error)
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=check, name="sums", daemon=True).start()
    seen = -1
    while not done.is_set():
        if seen == len(summed):
            raise CheckpointError(
                "the checkpoint could not be checked",
                details=f"nothing of {folder} could be read for {hangs_after_s:g} s",
                resolution="see the kernel's log: its disk may be damaged, or out of reach; then "
                "try again",
            )
        seen = len(summed)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), hangs_after_s)
    if outcome:
        raise outcome[0]


def sums_of(
    checkpoint: Path, *folders: Path, summed: Callable[[int], object] = lambda _: None
) -> Sums:
    """``summed`` is called after each block, with its sum."""
    sizes: dict[str, int] = {}
    blocks: list[tuple[str, int, tuple[Path, range]]] = []
    inside = len(str(checkpoint)) + 1  # a path library takes longer, and a worker waits
    for path, size in (found for folder in folders for found in regular_files(folder)):
        sizes[name := str(path)[inside:]] = size
        blocks += [(name, number, block) for number, block in enumerate(_blocks(path, size))]
    sums: dict[tuple[str, int], int] = {}
    left, failures = iter(blocks), list[BaseException]()
    lock = threading.Lock()

    def work() -> None:
        while not failures:
            with lock:
                job = next(left, None)
            if job is None:
                return
            try:
                name, number, block = job
                sums[name, number] = _sum_of(block)
                summed(sums[name, number])
            except BaseException as error:  # noqa: BLE001 (raised again)
                failures.append(error)

    # Daemons, unlike those of a pool: one that hangs in a read keeps nobody from ending. To start
    # them for little takes longer than to do without.
    helpers = min(AT_ONCE, len(blocks)) if sum(sizes.values()) > BLOCK_BYTES else 0
    threads = [threading.Thread(target=work, name="sums", daemon=True) for _ in range(helpers)]
    if not helpers:
        work()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    found: dict[str, list[int]] = {name: [size] for name, size in sizes.items()}
    for name, number, _ in blocks:
        found[name].append(sums[name, number])
    return {name: tuple(one) for name, one in found.items()}


def regular_files(top: Path) -> Iterator[tuple[Path, int]]:
    """The regular files of a folder, with their sizes."""
    for folder, _, names in os.walk(top):
        parent = Path(folder)
        for path in (parent / name for name in names):
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
        return sum_of_zeros(len(part)) if _is_hole(descriptor, part) else _sum(descriptor, part)
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
def sum_of_zeros(count: int) -> int:
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


def kept_sums(checkpoint: Path) -> Sums | None:
    """Those that were written down; ``None``: it is of an earlier version. ``CheckpointError``."""
    try:
        kept = json.loads((checkpoint / SUMS).read_text())
        return {name: tuple(sums) for name, sums in kept.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise damaged(checkpoint, str(error)) from error


def advice(checkpoint: Path) -> str:
    """What to do about one that is of no use: its folder is in that of its worker."""
    worker = checkpoint.parent.name
    return (
        f"resume from another one: `warmboot worker checkpoints {worker}`, then "
        f"`warmboot worker resume {worker} -c NAME`"
    )


def damaged(checkpoint: Path, details: str) -> CheckpointError:
    return CheckpointError(
        "the checkpoint is damaged",
        details=details,
        resolution=advice(checkpoint),
    )

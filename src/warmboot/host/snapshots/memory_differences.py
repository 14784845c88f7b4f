"""Lays a difference over its base: once, into a RAM file that all VMs of that moment then map.

The base is copied as a reflink where the file system can, else sparse; a compressed one is
unpacked. A file that does not come to its end is removed again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from warmboot.host.snapshots import memory_frames
from warmboot.host.snapshots.memory_frames import made_whole, write_at
from warmboot.hypervisors.memory.difference import Difference, merge
from warmboot.hypervisors.memory.frames import damaged
from warmboot.model.runtime_image import FileSum
from warmboot.system.concurrency import Stopped
from warmboot.system.disks import copy_file
from warmboot.system.hashing import sum_file


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a snapshot's memory, plain or as frames, and its sum; ``None``: taken on trust, as
    its owner has just compared it."""

    path: Path
    compressed: bool = False
    expected: FileSum | None = None


def lay_over(base: StoredFile | None, upper: StoredFile, target: Path, stop: Event) -> None:
    """Write the memory that ``upper``, a difference, makes of ``base`` to the new file ``target``.

    Without a base it lies over zeros. ``SnapshotDamaged``, ``DiskFull``. Blocking.
    """
    with _opened(upper) as difference:
        if base is None:
            with made_whole(target):
                pass
        elif base.compressed:
            memory_frames.unpack(base.path, target, stop, sync=False)
        else:
            copy_file(base.path, target)
        with made_whole(target, new=False) as memory:
            os.ftruncate(memory, difference.index.memory_bytes)
            for offset, content in difference.pages():
                if stop.is_set():
                    raise Stopped
                write_at(memory, memoryview(content), offset)


def merge_differences(lower: StoredFile, upper: StoredFile, target: Path) -> None:
    """Write ``upper``, over the memory that ``lower`` gives, as one over ``lower``'s own base.

    ``SnapshotDamaged``, ``OSError``. Blocking.
    """
    with _opened(lower) as below, _opened(upper) as above:
        merge(below, above, target)


def _opened(stored: StoredFile) -> Difference:
    if stored.expected is not None and sum_file(stored.path) != stored.expected:
        raise damaged(stored.path, "it is not what it was: its SHA-256 differs")
    return Difference(stored.path, compressed=stored.compressed)

"""Differences of memories that a test has at hand."""

from __future__ import annotations

from pathlib import Path

from warmboot.hypervisors.memory.difference import write
from warmboot.hypervisors.memory.own_pages import Ranges


def write_difference(path: Path, memory: bytes, ranges: Ranges) -> Path:
    """Those pages of ``memory``, as the new file ``path``."""

    def fill(buffer: memoryview, some: Ranges) -> None:
        buffer[:] = b"".join(memory[start:end] for start, end in some)

    write(path, len(memory), ranges, fill)
    return path

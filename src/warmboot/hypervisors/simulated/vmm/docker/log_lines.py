"""An entry of a log is what was written at once: several lines, or part of one. Lines are read."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


class Lines:
    """Cuts what is written into lines; each stream has its own."""

    def __init__(self) -> None:
        self._unfinished: set[int] = set()

    def of(self, stream: int, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Each line, or part of one, and whether it begins there."""
        for piece in _LINE.findall(data):
            yield piece, stream not in self._unfinished
            if piece.endswith(b"\n"):
                self._unfinished.discard(stream)
            else:
                self._unfinished.add(stream)


def tail(record: Mapping[str, Any], wanted: str) -> tuple[int, int]:
    """The beginning of the last lines of a container's log: the entry's number, and the byte in it.

    ``wanted`` is how many; what is no number means all.
    """
    if not wanted.isdecimal():
        return 0, 0
    lines, begins = Lines(), deque[tuple[int, int]](maxlen=int(wanted))
    first, log = record["dropped"], record["log"]
    for number, (_, stream, text) in enumerate(log, first):
        at = 0
        for piece, begins_here in lines.of(stream, text.encode("latin-1")):
            if begins_here:
                begins.append((number, at))
            at += len(piece)
    return begins[0] if begins else (first + len(log), 0)

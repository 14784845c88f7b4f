"""An entry of a log is what was written at once: several lines, or part of one. Lines are read."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

DEFAULT_LOG_DRIVER = "json-file"
LONGEST_LINE = 16 << 10
"""Of a log: what is longer is in several entries."""

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


def logged(driver: str, data: bytes) -> bytes:
    """What is left of a program's output in its log: ``json-file`` keeps text only."""
    if driver != "json-file":
        return data
    pieces = [data[at : at + LONGEST_LINE] for at in range(0, len(data), LONGEST_LINE)]
    return "".join(piece.decode(errors="replace") for piece in pieces).encode()

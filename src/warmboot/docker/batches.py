"""Output that comes in many small pieces is passed on in fewer.

A program that writes a line at a time makes Docker send each by itself, and each would cost its way
through the manager to the client. What comes after a silence is passed on at once; what comes
right behind it waits for its neighbours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

PAUSE_S = 0.005
"""Short enough for somebody who types, long enough for hundreds of lines."""

ENOUGH_BYTES = 16 << 10
"""What is as large as this is worth its way alone."""

MOST_BYTES = 64 << 10


async def let_more_come(last_bytes: int) -> None:
    """Call it between a piece that was passed on and the next one that is taken."""
    if last_bytes < ENOUGH_BYTES:
        await asyncio.sleep(PAUSE_S)


def joined(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The same bytes: neighbours of one stream are one piece, up to ``MOST_BYTES`` or one piece."""
    stream, parts, size_bytes = 0, list[bytes](), 0
    for number, data in pieces:
        if parts and (number != stream or size_bytes + len(data) > MOST_BYTES):
            yield stream, b"".join(parts)
            parts, size_bytes = [], 0
        stream = number
        parts.append(data)
        size_bytes += len(data)
    if parts:
        yield stream, b"".join(parts)

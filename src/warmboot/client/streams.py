"""Reads streamed responses: framed container output and server-sent events."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from itertools import groupby
from operator import itemgetter

from warmboot.client.decode import decoded
from warmboot.client.problems import error_of
from warmboot.client.results import Event, LogChunk
from warmboot.model.errors import Unavailable

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
_HEADER_BYTES = 8
_STREAMS = {1: "stdout", 2: "stderr"}
_ERROR_TAG = 3


async def demultiplexed(chunks: AsyncIterator[bytes]) -> AsyncIterator[LogChunk]:
    """Frames of ``stream, 0, 0, 0, length (32 bit, big-endian), data``; errors are raised.

    Neighbours of one stream that have come together are one chunk.
    """
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        for tag, frames in groupby(_taken_from(buffer), key=itemgetter(0)):
            data = b"".join(data for _, data in frames)
            if tag == _ERROR_TAG:
                raise error_of(json.loads(data))
            yield LogChunk(_STREAMS.get(tag, "stdout"), data)
    if buffer:
        raise Unavailable("the output was cut off in the middle", resolution="request it again")


def _taken_from(buffer: bytearray) -> list[tuple[int, bytes]]:
    """The whole frames in ``buffer``, which keeps the rest."""
    found, at = [], 0
    while len(buffer) >= at + _HEADER_BYTES:
        tag, length = struct.unpack_from(">BxxxL", buffer, at)
        end = at + _HEADER_BYTES + length
        if len(buffer) < end:
            break
        found.append((tag, bytes(buffer[at + _HEADER_BYTES : end])))
        at = end
    del buffer[:at]
    return found


async def server_sent(lines: AsyncIterator[str]) -> AsyncIterator[Event | None]:
    """Events; ``None`` for a comment, the first of which says that the stream stands."""
    data: list[str] = []
    async for line in lines:
        if line.startswith(":"):
            yield None
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield decoded(Event, json.loads("\n".join(data)))
            data = []

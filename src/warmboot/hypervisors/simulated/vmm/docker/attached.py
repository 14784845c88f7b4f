"""Those who are attached to simulated containers: what is written goes to each as it comes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

MOST_BYTES = 1 << 20
"""A program waits while somebody who is attached has this much to read."""


class Listener:
    """Iterate for the stream (1 or 2) and bytes of each write; ``close`` when done."""

    def __init__(self, among: set[Listener]) -> None:
        self._among = among
        self._pieces: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self.waiting_bytes = 0
        self.read = asyncio.Event()
        among.add(self)

    def put(self, stream: int, data: bytes) -> None:
        self.waiting_bytes += len(data)
        self._pieces.put_nowait((stream, data))

    def end(self) -> None:
        self._pieces.put_nowait(None)
        self.close()

    def close(self) -> None:
        self._among.discard(self)
        self.read.set()

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        while (piece := await self._pieces.get()) is not None:
            yield piece
            self.waiting_bytes -= len(piece[1])
            self.read.set()


class Attached:
    """All who are attached, by the container's id."""

    def __init__(self) -> None:
        self._listeners: defaultdict[str, set[Listener]] = defaultdict(set)

    def listen(self, container_id: str) -> Listener:
        return Listener(self._listeners[container_id])

    def write(self, container_id: str, stream: int, data: bytes) -> None:
        for listener in self._listeners[container_id]:
            listener.put(stream, data)

    def end(self, container_id: str) -> None:
        for listener in self._listeners.pop(container_id, set()).copy():
            listener.end()

    async def room(self, container_id: str) -> None:
        """Return when all have kept up."""
        while full := [
            one for one in self._listeners[container_id] if one.waiting_bytes >= MOST_BYTES
        ]:
            full[0].read.clear()
            await full[0].read.wait()

"""Writes uploaded files while the disk has more free space than its floor.

What all of them together have announced and not sent yet counts as taken, so that two that would
fit alone do not fill the disk together. One without a length counts as it comes. What is refused,
or breaks off, is gone before anybody is told.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Protocol

from warmboot.system.on_failure import on_failure


class Room(Protocol):
    """The storage folder's disk. Both raise ``DiskFull`` below the floor."""

    async def ensure_room(self, needed_bytes: int = 0) -> None: ...

    def check_room(self, needed_bytes: int = 0) -> None: ...


class Uploads:
    def __init__(self, room: Room) -> None:
        self._room = room
        self._to_come: dict[Path, int] = {}

    async def receive(
        self, path: Path, chunks: AsyncIterator[bytes], size_bytes: int | None
    ) -> str:
        """Write ``chunks`` to a new file at ``path``; their SHA-256. Nothing is left of a failure.

        ``size_bytes`` is what was announced, if anything was.
        """
        digest = hashlib.sha256()
        async with aclosing(self.let_in(path, chunks, size_bytes)) as let_in:
            with on_failure(lambda: path.unlink(missing_ok=True)), path.open("xb") as file:
                async for chunk in let_in:
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
        return digest.hexdigest()

    async def let_in(
        self, path: Path, chunks: AsyncIterator[bytes], size_bytes: int | None
    ) -> AsyncGenerator[bytes, None]:
        """``chunks`` for whoever writes them at ``path``, or ``DiskFull``. Close it."""
        async with self.reserved(path, size_bytes or 0):
            async for chunk in chunks:
                self._to_come[path] = max(len(chunk), self._to_come[path])
                self._room.check_room(sum(self._to_come.values()))
                yield chunk
                self._to_come[path] -= len(chunk)

    @asynccontextmanager
    async def reserved(self, path: Path, size_bytes: int) -> AsyncIterator[None]:
        """Have room for ``size_bytes`` more at ``path``, or ``DiskFull``."""
        self._to_come[path] = size_bytes
        try:
            await self._room.ensure_room(sum(self._to_come.values()))
            yield
        finally:
            del self._to_come[path]

"""An upload as a file that a thread reads while it comes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import Future
from typing import Any, cast

from typing_extensions import override

from warmboot.system.concurrency import end


class Arriving(io.RawIOBase):
    """What comes on the running loop, for another thread to read.

    What ``chunks`` raises, the reader raises. Nothing is asked for that nobody reads, so a slow
    reader slows its sender down.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()
        self._digest = hashlib.sha256()
        self._rest = memoryview(b"")
        self._awaited: Future[bytes | None] | None = None
        self._asking: asyncio.Task[Any] | None = None

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: object, /) -> int:
        target = memoryview(cast(bytearray, buffer))
        while not self._rest:
            self._awaited = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            if self.closed:  # meanwhile, by ``close``, which had nothing to cancel
                self._awaited.cancel()
            chunk = self._awaited.result()
            if chunk is None:
                return 0
            self._digest.update(chunk)
            self._rest = memoryview(chunk)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def hexdigest(self) -> str:
        """The SHA-256 of what was read."""
        return self._digest.hexdigest()

    @override
    def close(self) -> None:
        """From the loop: who waits for more in the thread is given an error."""
        super().close()
        if self._awaited is not None:
            self._awaited.cancel()

    async def end(self) -> None:
        self.close()
        if self._asking is not None:
            await end(self._asking)

    async def _next(self) -> bytes | None:
        self._asking = asyncio.current_task()
        return await anext(self._chunks, None)


@contextlib.asynccontextmanager
async def arriving(chunks: AsyncGenerator[bytes, None]) -> AsyncIterator[Arriving]:
    """``chunks`` as a file; on leaving, nobody asks for more of them, and they are closed."""
    async with contextlib.aclosing(chunks):
        source = Arriving(chunks)
        try:
            yield source
        finally:
            await source.end()

"""Short work first: warm boots take turns, and what comes after a boot lets waiting boots pass.

A warm boot takes some hundredths of a second of a CPU, bringing an image into a guest and starting
a container some tenths. Begun all at once on few CPUs they would all end late; one after the other
most of them end early, and the last one no later.

    boot ──turn (as many at once as there are CPUs)──▶ Docker answers ──let boots pass──▶ container

Nobody waits longer than ``patience_s``, whatever hangs before him.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable

PATIENCE_S = 1.0


class BootTurns:
    """``most``: how many have a turn at once."""

    def __init__(self, most: int, patience_s: float = PATIENCE_S) -> None:
        self._free = asyncio.Semaphore(most)
        self._patience_s = patience_s
        self._boots = 0
        self._none_left = asyncio.Event()
        self._none_left.set()

    @contextlib.asynccontextmanager
    async def boot(self) -> AsyncIterator[None]:
        """A turn, in the order in which they were asked for."""
        self._boots += 1
        self._none_left.clear()
        try:
            had_one = await self._in_time(self._free.acquire())
            try:
                yield
            finally:
                if had_one:
                    self._free.release()
        finally:
            self._boots -= 1
            if self._boots == 0:
                self._none_left.set()

    async def let_boots_pass(self) -> None:
        """Return when no boot has or waits for a turn."""
        await self._in_time(self._none_left.wait())

    async def _in_time(self, waited_for: Awaitable[object]) -> bool:
        try:
            async with asyncio.timeout(self._patience_s):
                await waited_for
        except TimeoutError:
            return False
        return True

"""Work that is done once for all who want it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from warmboot.system.concurrency import end

T = TypeVar("T")


class OnceForAll(Generic[T]):
    """``await`` it with the work, which goes on if who began it is cancelled; ``close``.

    If it fails all of them get the error, and who comes then begins it anew.
    """

    def __init__(self) -> None:
        self._doing: asyncio.Task[T] | None = None

    async def __call__(self, work: Callable[[], Awaitable[T]]) -> T:
        return await asyncio.shield(self.begin(work))

    @property
    def under_way(self) -> bool:
        return self._doing is not None and not self._doing.done()

    def begin(self, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """For who does not wait for it."""
        if self._doing is None or not self.under_way:
            self._doing = asyncio.ensure_future(_done(work))
            self._doing.add_done_callback(_looked_at)
        return self._doing

    async def close(self) -> None:
        """What is under way is given up."""
        if self._doing is not None:
            await end(self._doing)


async def _done(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


def _looked_at(task: asyncio.Task[T]) -> None:
    """Perhaps nobody has waited to its end: asyncio would complain of its error."""
    if not task.cancelled():
        task.exception()

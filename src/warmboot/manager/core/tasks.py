"""Background tasks by key: one at a time per key, all ended when the manager stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from warmboot.manager.core.background import Failed, Work, until_done
from warmboot.system.concurrency import end

log = structlog.get_logger(__name__)


class Tasks:
    """Tasks that go on after the request that began them was answered."""

    def __init__(self) -> None:
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._stopping = False
        self._observers: list[Failed] = []

    def observe_failures(self, failed: Failed) -> None:
        """Call ``failed`` for every round of ``keep_going`` that failed."""
        self._observers.append(failed)

    def keep_going(
        self,
        work: Work,
        key: str,
        begin: Callable[[], Awaitable[None]],
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """``start`` for what has to come to its end: ``begin`` is called anew after a failure."""
        self.start(key, until_done(work, begin, self._failed), at_end)

    def start(
        self,
        key: str,
        work: Coroutine[Any, Any, None],
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin ``work`` when earlier work of the same key has ended; not if the manager stops.

        It is never dropped because the earlier one is just about to end: ``work`` looks itself
        whether there is still something to do. ``at_end`` is called in any case, also when
        ``work`` was cancelled before it began.
        """
        if self._stopping:
            work.close()
            at_end()
            return
        waiting = self._tasks.setdefault(key, [])
        turn = _after(waiting[-1] if waiting else None, work)
        task = asyncio.get_running_loop().create_task(turn, name=key)
        waiting.append(task)
        task.add_done_callback(lambda done: self._ended(key, done, work))
        task.add_done_callback(lambda _: at_end())

    def running(self, key: str) -> bool:
        return key in self._tasks

    async def ended(self, key: str) -> None:
        """Return when what was begun under this key has ended, however it did."""
        if waiting := self._tasks.get(key):
            await asyncio.wait(set(waiting))

    async def cancel(self, key: str) -> None:
        """Cancel and wait until it has cleaned up after itself."""
        await end(*(t for t in self._tasks.get(key, ()) if t is not asyncio.current_task()))

    async def stop(self) -> None:
        self._stopping = True
        await end(*(task for waiting in self._tasks.values() for task in waiting))

    def _failed(self, work: Work) -> None:
        for observer in self._observers:
            observer(work)

    def _ended(self, key: str, task: asyncio.Task[None], work: Coroutine[Any, Any, None]) -> None:
        work.close()  # it may have been cancelled before its turn
        self._tasks[key].remove(task)
        if not self._tasks[key]:
            del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", work=key, exc_info=error)


async def _after(earlier: asyncio.Task[None] | None, work: Coroutine[Any, Any, None]) -> None:
    if earlier is not None:
        await asyncio.wait({earlier})
    await work

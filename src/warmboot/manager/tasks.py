"""Background work by key: at most one task a key, all ended when the manager stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class Tasks:
    """Tasks that go on after the request that began them was answered."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    def start(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Begin ``work`` unless work of the same key goes on or the manager stops."""
        if self._stopping or key in self._tasks:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work, name=key)
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))

    def running(self, key: str) -> bool:
        return key in self._tasks

    async def cancel(self, key: str) -> None:
        """Cancel and wait until it has cleaned up after itself."""
        task = self._tasks.get(key)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def stop(self) -> None:
        self._stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", work=key, exc_info=error)

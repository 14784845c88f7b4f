"""Leads ports on the host that others had there, once those have given them back.

Nothing tells when that is: it is tried again, more seldom the longer it takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from warmboot.manager.core.background import Work
from warmboot.manager.core.tasks import Tasks
from warmboot.system.back_off import BackOff

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


class RetryTaken:
    """``begin`` for an engine, any number of times; ``lead`` says whether nothing is left."""

    def __init__(self, tasks: Tasks, lead: Callable[[UUID], Awaitable[bool]]) -> None:
        self._tasks = tasks
        self._lead = lead
        self._under_way: set[UUID] = set()

    def begin(self, engine_id: UUID) -> None:
        if engine_id not in self._under_way:
            self._under_way.add(engine_id)
            self._tasks.keep_going(
                Work.WATCH_ENGINES, _key(engine_id), lambda: self._retry(engine_id)
            )

    async def stop(self, engine_id: UUID) -> None:
        await self._tasks.cancel(_key(engine_id))
        self._under_way.discard(engine_id)

    async def _retry(self, engine_id: UUID) -> None:
        back_off = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        await back_off.pause()
        while not await self._lead(engine_id):
            await back_off.pause()
        self._under_way.discard(engine_id)


def _key(engine_id: UUID) -> str:
    return f"taken ports {engine_id}"

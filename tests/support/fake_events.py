"""The manager's events, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime

from warmboot.model.journal.event import Event
from warmboot.model.shapes import Shape

DEFAULT_SHAPE = Shape(2, 1024)


def now() -> datetime:
    return datetime.now(UTC)


class FakeEvents:
    """``endless = False`` ends a ``follow`` when it has caught up (for generated requests)."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.endless = True
        self._news = asyncio.Condition()

    def add(self, kind: str, subject: object, **data: object) -> None:
        self.all.append(Event(len(self.all) + 1, now(), kind, str(subject), data))
        self._wake = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def list(
        self, after: int = 0, limit: int = 100, kinds: Collection[str] = ()
    ) -> Sequence[Event]:
        found = [event for event in self.all if event.id > after]
        return [event for event in found if not kinds or event.kind in kinds][:limit]

    async def follow(
        self, after: int | None = None, kinds: Collection[str] = ()
    ) -> AsyncIterator[Event]:
        seen = len(self.all) if after is None else min(after, len(self.all))
        while True:
            while seen < len(self.all):
                seen += 1
                if not kinds or self.all[seen - 1].kind in kinds:
                    yield self.all[seen - 1]
            if not self.endless:
                return
            async with self._news:
                while seen == len(self.all):
                    await self._news.wait()

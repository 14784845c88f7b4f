"""Tasks: of one key one after the other, and what is called at their end."""

from __future__ import annotations

import asyncio

from warmboot.manager.core.tasks import Tasks


class Work:
    """Work that ends when it is told to, and what was called of it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.go_on = asyncio.Event()

    async def do(self, name: str) -> None:
        self.said.append(name)
        await self.go_on.wait()

    def at_end(self) -> None:
        self.said.append("end")


async def test_its_end_is_told_when_it_is_done() -> None:
    tasks, work = Tasks(), Work()
    tasks.start("key", work.do("a"), work.at_end)
    tasks.start("key", work.do("b"))
    for _ in range(10):  # more often than the second one would need to begin
        await asyncio.sleep(0)
    assert work.said == ["a"]
    work.go_on.set()
    async with asyncio.timeout(60):
        while tasks.running("key"):  # noqa: ASYNC110 - its end is what is awaited
            await asyncio.sleep(0)
    assert work.said == ["a", "end", "b"]


async def test_its_end_is_told_when_it_was_cancelled_before_it_began() -> None:
    tasks, work = Tasks(), Work()
    tasks.start("key", work.do("a"), work.at_end)
    await tasks.cancel("key")
    await asyncio.sleep(0)
    assert work.said == ["end"]


async def test_its_end_is_told_when_nothing_begins_any_more() -> None:
    tasks, work = Tasks(), Work()
    await tasks.stop()
    tasks.start("key", work.do("a"), work.at_end)
    assert work.said == ["end"]

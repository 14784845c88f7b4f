"""BootTurns: who goes first, and that nobody waits for ever."""

from __future__ import annotations

import asyncio

from warmboot.manager.boot_turns import BootTurns

FOR_EVER_S = 3600.0


class Boots:
    """Boots that take a turn and end when they are told to."""

    def __init__(self, turns: BootTurns) -> None:
        self._turns = turns
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, *names: str) -> None:
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks.append(asyncio.create_task(self._boot(name)))
        await settled()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settled()

    async def _boot(self, name: str) -> None:
        async with self._turns.boot():
            self.begun.append(name)
            await self._ends[name].wait()


async def settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_boots_take_turns_in_the_order_in_which_they_came() -> None:
    boots = Boots(BootTurns(2, FOR_EVER_S))
    await boots.ask("a", "b", "c", "d")
    assert boots.begun == ["a", "b"]
    await boots.end("b")
    assert boots.begun == ["a", "b", "c"]
    for name in ("c", "a", "d"):
        await boots.end(name)
    assert boots.begun == ["a", "b", "c", "d"]


async def test_what_comes_after_a_boot_lets_waiting_boots_pass() -> None:
    turns = BootTurns(1, FOR_EVER_S)
    boots = Boots(turns)
    await boots.ask("a", "b")
    later = asyncio.create_task(turns.let_boots_pass())
    await boots.end("a")
    assert not later.done()
    await boots.end("b")
    assert later.done()
    await asyncio.wait_for(turns.let_boots_pass(), FOR_EVER_S)


async def test_nobody_waits_for_ever_behind_one_that_hangs() -> None:
    turns = BootTurns(1, patience_s=0.01)
    boots = Boots(turns)
    await boots.ask("hangs")
    async with turns.boot():
        pass
    await turns.let_boots_pass()
    assert boots.begun == ["hangs"]
    await boots.end("hangs")
    await boots.ask("next")
    assert boots.begun == ["hangs", "next"]
    await boots.end("next")


async def test_a_cancelled_wait_leaves_the_turn_to_the_next() -> None:
    turns = BootTurns(1, FOR_EVER_S)
    boots = Boots(turns)
    await boots.ask("a")
    gone = asyncio.create_task(turns.boot().__aenter__())
    await settled()
    await boots.ask("b")
    gone.cancel()
    await settled()
    await boots.end("a")
    assert boots.begun == ["a", "b"]
    await boots.end("b")
    await asyncio.wait_for(turns.let_boots_pass(), FOR_EVER_S)

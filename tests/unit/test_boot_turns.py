"""BootTurns: who goes first, and that nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from warmboot.manager.core.boot_turns import BootTurns

FOR_EVER_S = 3600.0


class Boots:
    """Boots that take their turns and go on when they are told to: prepare, run, over."""

    def __init__(self, turns: BootTurns) -> None:
        self._turns = turns
        self.said: list[str] = []
        self._steps: dict[str, asyncio.Semaphore] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, *names: str) -> None:
        for name in names:
            self._steps[name] = asyncio.Semaphore(0)
            self._tasks.append(asyncio.create_task(self._boot(name)))
        await settled()

    async def go_on(self, *names: str) -> None:
        for name in names:
            self._steps[name].release()
            await settled()

    async def _boot(self, name: str) -> None:
        turn, step = self._turns.boot(), self._steps[name]
        await turn.prepare()
        self.said.append(f"{name} is prepared")
        await step.acquire()
        await turn.run()
        self.said.append(f"{name} runs")
        turn.prepared()
        await step.acquire()
        turn.ran()
        await step.acquire()
        turn.over()


async def settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_is_prepared_while_the_guest_of_the_one_before_is_at_work() -> None:
    boots = Boots(BootTurns(1, FOR_EVER_S))
    await boots.ask("a", "b", "c")
    assert boots.said == ["a is prepared"]
    await boots.go_on("a")
    assert boots.said[1:] == ["a runs", "b is prepared"]
    await boots.go_on("b")
    assert boots.said[3:] == [], "b waits for a's guest, and c for b"
    await boots.go_on("a")
    assert boots.said[3:] == ["b runs", "c is prepared"]


async def test_as_many_guests_run_as_may() -> None:
    boots = Boots(BootTurns(2, FOR_EVER_S))
    await boots.ask("a", "b", "c")
    await boots.go_on("a", "b", "c")
    assert [said for said in boots.said if "runs" in said] == ["a runs", "b runs"]
    await boots.go_on("b")
    assert boots.said[-1] == "c runs"


async def test_what_comes_after_a_boot_lets_waiting_boots_pass() -> None:
    turns = BootTurns(1, FOR_EVER_S)
    boots = Boots(turns)
    await boots.ask("a", "b")
    later = asyncio.create_task(turns.let_boots_pass())
    await boots.go_on("a", "a", "a", "b", "b")
    assert not later.done()
    await boots.go_on("b")
    assert later.done()
    await asyncio.wait_for(turns.let_boots_pass(), FOR_EVER_S)


async def test_nobody_waits_for_ever_behind_one_that_hangs() -> None:
    turns = BootTurns(1, patience_s=0.01)
    boots = Boots(turns)
    await boots.ask("hangs")
    await asyncio.wait_for(turns.boot().prepare(), FOR_EVER_S)
    await boots.go_on("hangs")
    other = turns.boot()
    await asyncio.wait_for(other.run(), FOR_EVER_S)
    other.over()
    await asyncio.wait_for(turns.let_boots_pass(), FOR_EVER_S)


async def test_who_had_no_turn_gives_none_back() -> None:
    turns = BootTurns(1, patience_s=0.01)
    first, second, third = turns.boot(), turns.boot(), turns.boot()
    await first.prepare()
    await first.run()
    await second.prepare()
    await second.run()
    second.over()
    waiting = asyncio.create_task(third.run())
    await settled()
    assert not waiting.done(), "the first one has the only turn"
    first.over()
    await waiting


async def test_a_cancelled_wait_leaves_the_turn_to_the_next() -> None:
    turns = BootTurns(1, FOR_EVER_S)
    boots = Boots(turns)
    await boots.ask("a")
    gone = turns.boot()
    waiting = asyncio.create_task(gone.prepare())
    await settled()
    await boots.ask("b")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gone.over()
    await boots.go_on("a")
    assert boots.said == ["a is prepared", "a runs", "b is prepared"]


async def test_over_may_be_said_at_any_time_and_again() -> None:
    turns = BootTurns(1, FOR_EVER_S)
    for steps in range(4):
        turn = turns.boot()
        for step in (turn.prepare, turn.run, turn.run)[:steps]:
            await asyncio.wait_for(step(), FOR_EVER_S)
        turn.over()
        turn.over()
        turn.ran()
        turn.prepared()
    await asyncio.wait_for(turns.let_boots_pass(), FOR_EVER_S)


async def test_one_that_stepped_aside_comes_back() -> None:
    turns = BootTurns(1, FOR_EVER_S)
    aside, other = turns.boot(), turns.boot()
    await aside.prepare()
    aside.over()
    await asyncio.wait_for(other.prepare(), FOR_EVER_S)
    await asyncio.wait_for(aside.run(), FOR_EVER_S)
    waiting = asyncio.create_task(turns.let_boots_pass())
    other.over()
    await settled()
    assert not waiting.done()
    aside.over()
    await waiting

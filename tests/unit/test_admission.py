"""BootAdmission: who goes first, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from warmboot.manager.core.admission import BootAdmission

FOR_EVER_S = 3600.0


class Boots:
    """Boots that are admitted and go on when they are told to: prepare, run, over."""

    def __init__(self, admission: BootAdmission) -> None:
        self._admission = admission
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
        ticket, step = self._admission.boot(), self._steps[name]
        await ticket.prepare()
        self.said.append(f"{name} is prepared")
        await step.acquire()
        await ticket.run()
        self.said.append(f"{name} runs")
        ticket.prepared()
        await step.acquire()
        ticket.ran()
        await step.acquire()
        ticket.booted()


async def settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_is_prepared_while_the_guest_of_the_one_before_is_at_work() -> None:
    boots = Boots(BootAdmission(1, FOR_EVER_S))
    await boots.ask("a", "b", "c")
    assert boots.said == ["a is prepared"]
    await boots.go_on("a")
    assert boots.said[1:] == ["a runs", "b is prepared"]
    await boots.go_on("b")
    assert boots.said[3:] == [], "b waits for a's guest, and c for b"
    await boots.go_on("a")
    assert boots.said[3:] == ["b runs", "c is prepared"]


async def test_as_many_guests_run_as_may() -> None:
    boots = Boots(BootAdmission(2, FOR_EVER_S))
    await boots.ask("a", "b", "c")
    await boots.go_on("a", "b", "c")
    assert [said for said in boots.said if "runs" in said] == ["a runs", "b runs"]
    await boots.go_on("b")
    assert boots.said[-1] == "c runs"


async def test_what_comes_after_a_boot_lets_waiting_boots_pass() -> None:
    admission = BootAdmission(1, FOR_EVER_S)
    boots = Boots(admission)
    await boots.ask("a", "b")
    later = asyncio.create_task(admission.after_boots())
    await boots.go_on("a", "a", "a", "b", "b")
    assert not later.done()
    await boots.go_on("b")
    assert later.done()
    await asyncio.wait_for(admission.after_boots(), FOR_EVER_S)


async def test_nobody_waits_for_ever_behind_one_that_hangs() -> None:
    admission = BootAdmission(1, wait_timeout_s=0.01)
    boots = Boots(admission)
    await boots.ask("hangs")
    await asyncio.wait_for(admission.boot().prepare(), FOR_EVER_S)
    await boots.go_on("hangs")
    other = admission.boot()
    await asyncio.wait_for(other.run(), FOR_EVER_S)
    other.over()
    await asyncio.wait_for(admission.after_boots(), FOR_EVER_S)


async def test_who_had_no_turn_gives_none_back() -> None:
    admission = BootAdmission(1, wait_timeout_s=0.01)
    first, second, third = admission.boot(), admission.boot(), admission.boot()
    await first.prepare()
    await first.run()
    await second.prepare()
    await second.run()
    second.over()
    waiting = asyncio.create_task(third.run())
    await settled()
    assert not waiting.done(), "the first one has the only ticket"
    first.over()
    await waiting


async def test_a_cancelled_wait_leaves_the_turn_to_the_next() -> None:
    admission = BootAdmission(1, FOR_EVER_S)
    boots = Boots(admission)
    await boots.ask("a")
    gone = admission.boot()
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
    admission = BootAdmission(1, FOR_EVER_S)
    for steps in range(4):
        ticket = admission.boot()
        for step in (ticket.prepare, ticket.run, ticket.run)[:steps]:
            await asyncio.wait_for(step(), FOR_EVER_S)
        ticket.over()
        ticket.over()
        async with asyncio.timeout(60):  # it has given back whatever it had
            following = admission.boot()
            await following.prepare()
            await following.run()
        following.over()
        ticket.ran()
        ticket.prepared()
    one, other = admission.boot(), admission.boot()
    await one.run()
    waiting = asyncio.create_task(other.run())
    await settled()
    assert not waiting.done(), "what was given back again did not make room for two"
    one.over()
    await asyncio.wait_for(waiting, 60)
    other.over()
    await asyncio.wait_for(admission.after_boots(), 60)


async def test_one_that_stepped_aside_comes_back() -> None:
    admission = BootAdmission(1, FOR_EVER_S)
    aside, other = admission.boot(), admission.boot()
    await aside.prepare()
    aside.booted()
    await asyncio.wait_for(other.prepare(), FOR_EVER_S)
    await asyncio.wait_for(aside.run(), FOR_EVER_S)
    waiting = asyncio.create_task(admission.after_boots())
    other.over()
    await settled()
    assert not waiting.done()
    aside.over()
    await waiting


async def test_it_is_quiet_when_nobody_waits_for_a_container_any_more() -> None:
    admission = BootAdmission(1, FOR_EVER_S)
    first, second = admission.boot(), admission.boot()
    await first.prepare()
    first.booted()
    await asyncio.wait_for(admission.after_boots(), FOR_EVER_S)
    quiet = asyncio.create_task(admission.until_quiet())
    second.over()
    await settled()
    assert (quiet.done(), admission.quiet) == (False, False), "the first container does not run yet"
    first.over()
    first.over()
    await quiet
    assert admission.quiet


async def test_work_on_files_is_done_one_after_the_other_and_behind_boots() -> None:
    admission = BootAdmission(1, FOR_EVER_S)
    said: list[str] = []
    go_on = asyncio.Semaphore(0)

    async def work(name: str, snapshot_id: UUID) -> None:
        async with admission.background(snapshot_id):
            said.append(name)
            await go_on.acquire()

    boot, one, other = admission.boot(), uuid4(), uuid4()
    await boot.prepare()
    names = {"one": one, "other": other, "one again": one}
    tasks = [asyncio.create_task(work(name, of)) for name, of in names.items()]
    await settled()
    assert (said, set(admission.in_background())) == ([], {one, other})
    boot.booted()
    for number, name in enumerate(names, 1):
        await settled()
        assert said == list(names)[:number], name
        go_on.release()
    await asyncio.gather(*tasks)
    assert admission.in_background() == frozenset()


async def test_work_on_files_does_not_wait_for_ever_behind_a_boot_that_hangs() -> None:
    admission = BootAdmission(1, wait_timeout_s=0.01)
    await admission.boot().prepare()
    async with admission.background(uuid4()):
        pass

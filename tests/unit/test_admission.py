"""BootAdmission: who goes first, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID, uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from warmboot.manager.core.admission import BootAdmission
from warmboot.manager.core.fair_semaphore import FairSemaphore
from warmboot.model.conventions.caller import CALLER

FOR_EVER_S = 3600.0


class Boots:
    """Boots that are admitted and go on when they are told to: prepare, run, over."""

    def __init__(self, admission: BootAdmission) -> None:
        self._admission = admission
        self.said: list[str] = []
        self._steps: dict[str, asyncio.Semaphore] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, *names: str, by: str = "") -> None:
        CALLER.set(by)
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


async def test_a_burst_of_one_caller_does_not_keep_anothers_single_start_waiting() -> None:
    boots = Boots(BootAdmission(1, FOR_EVER_S))
    burst = [f"burst {number}" for number in range(5)]
    await boots.ask(*burst, by="one")
    await boots.ask("single", by="other")
    await boots.ask("third", by="third")
    await boots.go_on(burst[0])
    assert boots.said[-1] == "single is prepared", "not after four others"
    await boots.go_on("single")  # it waits for the guest of the first
    await boots.go_on(burst[0])
    assert boots.said[-2:] == ["single runs", f"{burst[1]} is prepared"], "by turns"
    await boots.go_on(burst[1], "single")
    assert boots.said[-2:] == [f"{burst[1]} runs", "third is prepared"]
    await boots.go_on("third", burst[1])
    assert boots.said[-2:] == ["third runs", f"{burst[2]} is prepared"], "in its order"


class Turns(RuleBasedStateMachine):
    """Any callers that come, are given up and give back: nothing is lost, and nobody overtaken by
    more than one of each other caller."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.most = 2
        self.semaphore = FairSemaphore(self.most)
        self.waiting: list[tuple[str, asyncio.Task[None], Counter[str]]] = []
        self.holders = 0

    def _settle(self) -> None:
        self.loop.run_until_complete(settled())
        for entry in tuple(self.waiting):
            caller, task, _ = entry
            if task.done():
                self.waiting.remove(entry)
                self.holders += 1
                for other, _, passed in self.waiting:
                    if other != caller:
                        passed[caller] += 1

    @rule(caller=st.sampled_from("abc"))
    def ask(self, caller: str) -> None:
        task = self.loop.create_task(self.semaphore.acquire(caller))
        first = all(other != caller for other, _, _ in self.waiting)
        passed = Counter[str]() if first else Counter({caller: -1_000})
        self.waiting.append((caller, task, passed))
        self._settle()

    @precondition(lambda self: self.holders)
    @rule()
    def give_back(self) -> None:
        self.holders -= 1
        self.semaphore.release()
        self._settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), given_too=st.booleans())
    def give_up(self, data: st.DataObject, given_too: bool) -> None:
        entry = data.draw(st.sampled_from(self.waiting))
        if given_too and self.holders:
            self.holders -= 1
            self.semaphore.release()
        entry[1].cancel()
        self.waiting.remove(entry)
        self._settle()
        assert entry[1].cancelled()

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.holders <= self.most
        assert not self.waiting or self.holders == self.most

    @invariant()
    def the_first_of_a_caller_is_overtaken_once_by_each_other(self) -> None:
        seen = set[str]()
        for caller, _, passed in self.waiting:
            if caller not in seen and min(passed.values(), default=0) >= 0:
                assert max(passed.values(), default=0) <= 1
            seen.add(caller)

    @override
    def teardown(self) -> None:
        for _, task, _ in self.waiting:
            task.cancel()
        self.loop.run_until_complete(settled())
        self.loop.close()


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


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

"""First-to-finish, to-the-end, and the end of tasks, cancelled at every moment."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import anyio
import pytest

from warmboot.system.concurrency import all_ended, end, finish, race, some_at_once


@pytest.fixture(autouse=True)
async def complaints() -> AsyncIterator[None]:
    """Of asyncio there are none: of exceptions that nobody looked at, or of pending tasks."""
    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: heard.append(what))
    gc.freeze()  # what is there already need not be looked through
    yield
    gc.collect()
    gc.unfreeze()
    await asyncio.sleep(0)
    assert heard == []


class Work:
    """Ends when it is told to; takes its time to clean up when it is cancelled."""

    def __init__(self, *, fails_at_end: bool = False, turns_to_clean_up: int = 3) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.fails, self.cancelled, self.ended = False, 0, False
        self._fails_at_end = fails_at_end
        self._turns = turns_to_clean_up

    async def __call__(self) -> str:
        self.begun.set()
        try:
            await self.go_on.wait()
            if self.fails:
                raise ValueError("it failed")
            return "done"
        except asyncio.CancelledError:
            self.cancelled += 1
            for _ in range(self._turns):
                await asyncio.sleep(0)
            if self._fails_at_end:
                raise ValueError("cleaning up failed") from None
            raise
        finally:
            self.ended = True


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def started(work: Coroutine[Any, Any, Any], *works: Work) -> asyncio.Task[Any]:
    task = asyncio.create_task(work)
    for one in works:
        await one.begun.wait()
    return task


# -- race -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("winner", [0, 1])
async def test_the_first_is_done_and_the_other_has_ended(winner: int) -> None:
    works = Work(), Work()
    racing = await started(race(works[0](), works[1]()), *works)
    works[winner].go_on.set()
    results = await racing
    first = results[winner]
    assert first is not None
    assert first.result() == "done"
    assert results[1 - winner] is None
    assert works[1 - winner].ended
    assert works[1 - winner].cancelled == 1


async def test_both_may_be_done_at_once() -> None:
    one, two = Work(), Work()
    racing = await started(race(one(), two()), one, two)
    one.go_on.set()
    two.go_on.set()
    results = await racing
    assert [done and done.result() for done in results] == ["done", "done"]


async def test_the_first_may_have_failed() -> None:
    one, two = Work(), Work()
    one.fails = True
    racing = await started(race(one(), two()), one, two)
    one.go_on.set()
    failed, other = await racing
    assert failed is not None
    with pytest.raises(ValueError, match="it failed"):
        failed.result()
    assert other is None


async def test_a_failure_that_nobody_looks_at_is_no_complaint() -> None:
    one, two = Work(), Work()
    one.fails = two.fails = True
    racing = await started(race(one(), two()), one, two)
    one.go_on.set()
    two.go_on.set()
    await racing


async def test_what_the_loser_raises_at_its_end_is_not_raised() -> None:
    one, two = Work(), Work(fails_at_end=True)
    racing = await started(race(one(), two()), one, two)
    one.go_on.set()
    won, lost = await racing
    assert won is not None
    assert won.result() == "done"
    assert lost is None


async def test_a_loser_that_ends_well_meanwhile_has_still_lost() -> None:
    async def stubborn() -> str:
        try:
            return str(await asyncio.Event().wait())
        except asyncio.CancelledError:
            return "all the same"

    won, lost = await race(asyncio.sleep(0, "first"), stubborn())
    assert won is not None
    assert lost is None


async def test_nobody_is_done_when_the_time_is_over() -> None:
    one, two = Work(), Work()
    assert await race(one(), two(), timeout_s=0) == (None, None)
    assert not one.go_on.is_set()
    one, two = Work(), Work()
    assert await race(one(), two(), timeout_s=0.01) == (None, None)
    assert one.ended
    assert two.ended


async def test_three_can_race() -> None:
    one, two, three = Work(), Work(), Work()
    racing = await started(race(one(), two(), three()), one, two, three)
    two.go_on.set()
    assert [done is not None for done in await racing] == [False, True, False]


@pytest.mark.parametrize("moment", range(1, 9))
@pytest.mark.parametrize("fails_at_end", [False, True])
async def test_cancelled_at_any_moment_all_of_it_has_ended(moment: int, fails_at_end: bool) -> None:
    """At the first it has just begun; at the last ones the loser cleans up."""
    one, two = Work(), Work(fails_at_end=fails_at_end, turns_to_clean_up=20)
    racing = asyncio.create_task(race(one(), two()))
    for turn in range(moment):
        if turn == 3:
            one.go_on.set()
        await asyncio.sleep(0)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert one.ended is one.begun.is_set()
    assert two.ended is two.begun.is_set()
    assert two.cancelled <= 1


async def test_cancelled_twice_the_losers_clean_up_all_the_same() -> None:
    one, two = Work(turns_to_clean_up=20), Work(turns_to_clean_up=20)
    racing = await started(race(one(), two()), one, two)
    for _ in range(3):
        racing.cancel()
        await turns(2)
        assert not racing.done()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert (one.ended, one.cancelled) == (True, 1)
    assert (two.ended, two.cancelled) == (True, 1)


async def test_a_race_under_a_timeout_is_a_timeout() -> None:
    one, two = Work(), Work()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await race(one(), two())
    assert one.ended
    assert two.ended


# -- finish ---------------------------------------------------------------------------------------


async def test_the_result_is_the_works() -> None:
    assert await finish(asyncio.sleep(0, "result")) == "result"


async def test_the_failure_is_the_works() -> None:
    work = Work()
    work.fails = True
    work.go_on.set()
    with pytest.raises(ValueError, match="it failed"):
        await finish(work())


async def test_work_that_is_cancelled_by_itself_is_cancelled() -> None:
    task = asyncio.create_task(Work()())
    finishing = asyncio.create_task(finish(task))
    await turns(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancellation_waits_until_the_work_has_ended(times: int) -> None:
    work, asked = Work(), []
    finishing = await started(finish(work(), on_cancel=lambda: asked.append(1)), work)
    for _ in range(times):
        finishing.cancel()
        await turns(3)
    assert not finishing.done()
    assert len(asked) == times
    work.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    assert (work.ended, work.cancelled) == (True, 0)


async def test_a_cancellation_is_raised_from_the_works_failure() -> None:
    work = Work()
    work.fails = True
    finishing = await started(finish(work()), work)
    finishing.cancel()
    await turns(2)
    work.go_on.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await finishing
    # A task raises a cancellation of its own, with the first one as its context.
    assert "it failed" in f"{caught.value.__cause__!r} {caught.value.__context__!r}"


async def test_cancelled_in_the_moment_of_its_end_it_is_a_cancellation() -> None:
    work = Work()
    finishing = await started(finish(work()), work)
    work.go_on.set()
    await turns(1)
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    assert work.ended


async def test_a_timeout_comes_when_the_work_has_ended() -> None:
    work = Work()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await finish(work(), on_cancel=work.go_on.set)
    assert (work.ended, work.cancelled) == (True, 0)


async def test_a_scope_of_anyio_waits_for_the_work_without_spinning() -> None:
    work, asked = Work(), []
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(0.01, scope.cancel)
        asyncio.get_running_loop().call_later(0.02, work.go_on.set)
        assert await finish(work(), on_cancel=lambda: asked.append(1)) == "done"
        await asyncio.sleep(0)
        raise AssertionError("the scope was cancelled")
    assert asked == []
    assert scope.cancelled_caught


# -- end ------------------------------------------------------------------------------------------


async def test_what_is_ended_has_cleaned_up() -> None:
    one, two = Work(), Work(fails_at_end=True)
    tasks = [await started(one(), one), await started(two(), two)]
    await end(*tasks)
    assert one.ended
    assert two.ended


async def test_ending_nothing_and_what_has_ended_is_nothing() -> None:
    await end()
    work = Work()
    work.go_on.set()
    task = asyncio.create_task(work())
    await task
    await end(task)
    assert work.cancelled == 0


async def test_who_ends_others_waits_for_them_when_cancelled() -> None:
    work = Work(turns_to_clean_up=20)
    task = await started(work(), work)
    ending = asyncio.create_task(end(task))
    await turns(2)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert work.ended


# all_ended


async def test_all_have_ended_when_one_has_failed_and_the_first_failure_is_told() -> None:
    first, second, third = Work(), Work(), Work()

    async def fails() -> None:
        raise OSError("its own")

    ending = asyncio.ensure_future(all_ended(first(), fails(), second(), third()))
    for work in (third, second, first):
        await work.begun.wait()
        assert not ending.done()
        work.go_on.set()
    with pytest.raises(OSError, match="its own"):
        await ending
    assert first.ended
    assert second.ended
    assert third.ended
    await all_ended()


# some_at_once


async def test_some_are_done_at_once_and_their_results_are_in_order() -> None:
    begun, most, may_end = 0, 0, asyncio.Event()

    async def work(thing: int) -> int:
        nonlocal begun, most
        begun += 1
        most = max(most, begun)
        if most == 3:
            may_end.set()
        await may_end.wait()
        begun -= 1
        return 2 * thing

    assert await some_at_once(3, work, range(10)) == [2 * thing for thing in range(10)]
    assert most == 3
    assert await some_at_once(3, work, ()) == []


async def test_the_first_failure_of_some_ends_the_rest() -> None:
    begun, ended = set(), set()

    async def work(thing: int) -> None:
        if thing == 1:
            raise ValueError(thing)
        begun.add(thing)
        try:
            await asyncio.Event().wait()
        finally:
            ended.add(thing)

    with pytest.raises(ValueError, match="1"):
        await some_at_once(2, work, range(4))
    assert 0 in ended
    assert begun == ended

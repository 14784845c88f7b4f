"""What was taken is given back when, and only when, the block fails."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from warmboot.system.on_failure import on_failure


def test_a_block_that_succeeds_keeps_what_it_took() -> None:
    undone: list[str] = []
    with on_failure(partial(undone.append, "taken")):
        pass
    assert undone == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_block_that_fails_gives_back_and_fails(error: type[BaseException]) -> None:
    undone: list[str] = []
    with (
        pytest.raises(error),
        on_failure(partial(undone.append, "first")),
        on_failure(partial(undone.append, "second")),
    ):
        raise error
    assert undone == ["second", "first"]


async def test_a_block_that_is_cancelled_waits_until_all_is_given_back() -> None:
    undone: list[str] = []
    began = asyncio.Event()

    async def undo() -> None:
        await asyncio.sleep(0)
        undone.append("taken")

    async def work() -> None:
        async with on_failure(undo):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == ["taken"]


async def test_an_async_block_that_succeeds_keeps_what_it_took() -> None:
    async def undo() -> None:
        pytest.fail("nothing has failed")

    async with on_failure(undo):
        pass


async def test_what_cannot_be_given_back_does_not_hide_why_it_was_to_be() -> None:
    def undo() -> None:
        raise OSError("the disk is full, too")

    async def undo_later() -> None:
        undo()

    with pytest.raises(ValueError, match="the first"):
        async with on_failure(undo_later):
            with on_failure(undo):
                raise ValueError("the first")

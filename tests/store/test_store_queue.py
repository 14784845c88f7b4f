"""A burst of calls: each waits for its turn, in order, for as long as that takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context

import pytest
from tests.store.things import a_container, stored_image

from warmboot.store import Store

BURST = 50
TOO_LONG_S = 3600.0


async def _append(store: Store, number: int) -> None:
    await store.events.append("a.b", str(number))


async def _transact(store: Store, number: int) -> None:
    async with store.transaction():
        await store.events.append("a.b", str(number))


async def _add(store: Store, number: int) -> None:
    await store.containers.add(a_container(f"c{number}"))
    await store.events.append("a.b", str(number))


async def _read(store: Store, number: int) -> None:
    await store.containers.list()
    await store.events.append("a.b", str(number))


Work = Callable[[Store, int], Coroutine[None, None, None]]


@pytest.mark.parametrize("work", [_append, _transact, _add, _read])
async def test_a_burst_waits_for_as_long_as_it_takes(
    store: Store, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    real, late_s = loop.time, 0.0
    async with store.transaction():
        await stored_image(store)
        # Not as a part of this task's transaction.
        burst = [
            loop.create_task(work(store, number), context=Context()) for number in range(BURST)
        ]
        for _ in range(100):  # they stand in the queue
            await asyncio.sleep(0)
        monkeypatch.setattr(loop, "time", lambda: real() + late_s)
        late_s = TOO_LONG_S
        for _ in range(10):
            await asyncio.sleep(0.001)  # the loop looks at its clock
    await asyncio.gather(*burst)
    seen = [int(event.subject_id) for event in await store.events.since(0, BURST + 1)]
    assert sorted(seen) == list(range(BURST))


async def test_who_has_just_written_queues_behind_those_who_wait(store: Store) -> None:
    rounds: list[int] = []

    async def write() -> None:
        for number in range(3):
            await store.events.append("a.b", "x")
            rounds.append(number)

    await asyncio.gather(*(write() for _ in range(20)))
    assert rounds == sorted(rounds)


async def test_readers_do_not_wait_behind_writers(store: Store) -> None:
    async with store.transaction():
        await store.events.append("a.b", "x")
        waiting = [
            asyncio.get_running_loop().create_task(
                _transact(store, number),
                context=Context(),
            )
            for number in range(BURST)
        ]
        reader = asyncio.get_running_loop().create_task(
            store.containers.list(),
            context=Context(),
        )
        assert await asyncio.wait_for(reader, 60) == ()
    await asyncio.gather(*waiting)

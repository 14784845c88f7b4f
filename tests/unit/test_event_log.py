"""Waiting for a change: who is woken by what, and what is left of it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
from tests.support.databases import new_store

from warmboot.manager.core.event_log import EventLog
from warmboot.store import Store

A_LONG_TIME_S = 60.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with new_store(tmp_path) as made:
        yield made


@pytest.fixture
async def events(store: Store) -> EventLog:
    log = EventLog(store)
    await log.start()
    return log


class _Look:
    """Counts how often it is looked; what it finds is set from outside."""

    def __init__(self) -> None:
        self.found: str | None = None
        self.times = 0
        self.begun = asyncio.Event()

    async def __call__(self) -> str | None:
        self.times += 1
        self.begun.set()
        return self.found


async def _waiting(events: EventLog, look: _Look, subject: str | None) -> asyncio.Task[str | None]:
    task = asyncio.ensure_future(events.wait_for(look, A_LONG_TIME_S, subject))
    await look.begun.wait()
    return task


async def test_who_waits_for_one_subject_looks_at_its_events_only(events: EventLog) -> None:
    one, any_ = _Look(), _Look()
    for_one = await _waiting(events, one, "one")
    for_any = await _waiting(events, any_, None)
    for _ in range(5):
        await events.emit("container.stage", "other")
        await asyncio.sleep(0)
    assert one.times == 1
    assert any_.times > 1
    one.found = any_.found = "there"
    await events.emit("container.booted", "one")
    assert await for_one == "there"
    assert await for_any == "there"
    assert one.times == 2


async def test_what_happens_during_a_look_is_not_missed(events: EventLog) -> None:
    looks = 0

    async def look() -> int | None:
        nonlocal looks
        looks += 1
        if looks == 1:
            await events.emit("container.booted", "one")
            return None
        return looks

    assert await events.wait_for(look, A_LONG_TIME_S, "one") == 2


async def test_who_follows_some_kinds_is_told_of_these_alone(events: EventLog) -> None:
    for kind in ("a.one", "a.two", "a.one"):
        await events.emit(kind, "x")
    following = events.follow(0, {"a.one"})
    assert [(await anext(following)).id for _ in range(2)] == [1, 3]
    coming = asyncio.ensure_future(anext(following))
    await events.emit("a.two", "x")
    await events.emit("a.one", "x")
    assert (await asyncio.wait_for(coming, A_LONG_TIME_S)).id == 5
    assert isinstance(following, AsyncGenerator)
    await following.aclose()


async def test_what_a_transaction_stores_is_seen_with_its_event(
    events: EventLog, store: Store
) -> None:
    async def look() -> list[str] | None:
        if await store.meta.get("state") != "running":
            return None
        return [event.kind for event in await events.list()]

    waiting = asyncio.ensure_future(events.wait_for(look, A_LONG_TIME_S, "one"))
    observed: list[str] = []
    events.observe(lambda event: observed.append(event.kind))
    async with events.transaction() as emit:
        await store.meta.set("state", "running")
        await emit("container.running", "one")
        assert observed == [], "it may still be undone"
    assert observed == ["container.running"]
    assert await waiting == ["container.running"]


async def test_of_what_was_undone_nobody_is_told(events: EventLog, store: Store) -> None:
    observed: list[str] = []
    events.observe(lambda event: observed.append(event.kind))
    with pytest.raises(ZeroDivisionError):
        async with events.transaction() as emit:
            await store.meta.set("state", "running")
            await emit("container.running", "one")
            raise ZeroDivisionError
    assert (observed, await events.list()) == ([], ())
    assert await store.meta.get("state") is None


async def test_nothing_is_kept_for_who_has_given_up(events: EventLog) -> None:
    assert await events.wait_for(_Look(), 0.01, "nobody") is None
    await asyncio.sleep(0)  # the loop still has the time-out in its hand
    gc.collect()
    assert not events._ticks

"""Operations, events, idempotency keys and facts in the store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from warmboot.model.errors import Conflict, IllegalTransition, NotFound
from warmboot.model.journal.operation import OperationState
from warmboot.store import Done, Mismatch, Reserved, Running, Store


async def test_an_operation_remembers_its_steps_in_order(store: Store) -> None:
    operation = await store.operations.begin("boot", "c-1", {"want": "warm", "pid": 0})
    assert (operation.state, operation.begun) == (OperationState.RUNNING, ())
    await store.operations.note_step(operation.id, "network")
    await store.operations.note_step(operation.id, "network", {"slot": 3})
    await store.operations.note_step(operation.id, "restore", {"pid": 4711})
    found = await store.operations.get(operation.id)
    assert found.begun == ("network", "restore")
    assert found.data == {"want": "warm", "slot": 3, "pid": 4711}
    assert (found.kind, found.subject_id, found.created_at) == (
        "boot",
        "c-1",
        operation.created_at,
    )


async def test_open_operations_are_found_after_a_crash(store: Store) -> None:
    first = await store.operations.begin("boot", "c-1")
    second = await store.operations.begin("build", "s-1")
    third = await store.operations.begin("boot", "c-2")
    await store.operations.note_step(third.id, "network", {"slot": 1})
    await store.operations.set_state(first.id, OperationState.DONE)
    await store.operations.set_state(second.id, OperationState.UNDOING, {"code": "disk-full"})
    found = await store.operations.list()
    assert [operation.id for operation in found] == [second.id, third.id]
    assert found[0].error == {"code": "disk-full"}
    assert found[1].begun == ("network",)
    everything = await store.operations.list(open_only=False)
    assert [operation.id for operation in everything] == [first.id, second.id, third.id]


async def test_an_operation_ends_once(store: Store) -> None:
    operation = await store.operations.begin("boot", "c-1")
    await store.operations.set_state(operation.id, OperationState.UNDOING, {"code": "x"})
    await store.operations.note_step(operation.id, "undo")
    await store.operations.set_state(operation.id, OperationState.UNDONE)
    undone = await store.operations.get(operation.id)
    assert (undone.error, undone.begun) == ({"code": "x"}, ("undo",))
    with pytest.raises(IllegalTransition):
        await store.operations.set_state(operation.id, OperationState.DONE)
    with pytest.raises(Conflict, match="undone"):
        await store.operations.note_step(operation.id, "late")
    with pytest.raises(NotFound):
        await store.operations.note_step(uuid4(), "x")
    with pytest.raises(NotFound):
        await store.operations.set_state(uuid4(), OperationState.DONE)
    with pytest.raises(NotFound):
        await store.operations.get(uuid4())


async def test_only_old_ended_operations_are_purged(store: Store) -> None:
    running = await store.operations.begin("boot", "c-1")
    ended = await store.operations.begin("boot", "c-2")
    await store.operations.note_step(ended.id, "network")
    await store.operations.set_state(ended.id, OperationState.DONE)
    now = datetime.now(UTC)
    assert await store.operations.purge(now - timedelta(hours=1)) == 0
    assert await store.operations.purge(now + timedelta(hours=1)) == 1
    left = await store.operations.list(open_only=False)
    assert [operation.id for operation in left] == [running.id]


async def test_events_are_read_on_from_the_last_one_known(store: Store) -> None:
    assert await store.events.last_id() == 0
    events = [await store.events.append("container.running", f"c-{n}", {"n": n}) for n in range(5)]
    assert [event.id for event in events] == sorted(event.id for event in events)
    assert await store.events.since(0) == tuple(events)
    assert await store.events.since(events[1].id, limit=2) == tuple(events[2:4])
    assert await store.events.last_id() == events[-1].id


async def test_events_of_some_kinds_are_read_on(store: Store) -> None:
    for kind in ("a.one", "a.two", "a.three") * 3:
        await store.events.append(kind, "x")
    found = await store.events.since(0, limit=3, kinds={"a.one", "a.two"})
    assert [event.kind for event in found] == ["a.one", "a.two", "a.one"]
    rest = await store.events.since(found[-1].id, limit=9, kinds={"a.one", "a.two"})
    assert [event.kind for event in rest] == ["a.two", "a.one", "a.two"]


async def test_trimming_keeps_the_newest_and_never_reuses_an_id(store: Store) -> None:
    events = [await store.events.append("a.b", "x") for _ in range(5)]
    assert await store.events.trim(keep=2) == 3
    assert await store.events.since(0) == tuple(events[3:])
    assert await store.events.trim(keep=2) == 0
    assert await store.events.trim(keep=0) == 2
    assert (await store.events.append("a.b", "x")).id > events[-1].id


async def test_reports_are_trimmed_a_subject_for_itself(store: Store) -> None:
    kinds = ["report", "report", "other", "report"]
    for subject in ("a", "b"):
        for kind in kinds:
            await store.events.append(kind, subject)
    await store.events.append("report", "few")

    async def left() -> list[tuple[str, str]]:
        return [(event.subject_id, event.kind) for event in await store.events.since(0)]

    assert await store.events.trim_reports("report", 1, "a") == 2
    of_a = [("a", "other"), ("a", "report")]
    assert await left() == [*of_a, *[("b", kind) for kind in kinds], ("few", "report")]
    assert await store.events.trim_reports("report", 1) == 2
    assert await left() == [*of_a, ("b", "other"), ("b", "report"), ("few", "report")]


async def test_a_listener_misses_no_event_of_many_writers(store: Store) -> None:
    async def write(writer: int) -> None:
        for n in range(20):
            async with store.transaction():
                await store.events.append("a.first", f"{writer}", {"n": n})
                await store.events.append("a.second", f"{writer}", {"n": n})

    writers = asyncio.gather(*(write(writer) for writer in range(4)))
    seen: list[tuple[str, object, str]] = []
    last = 0
    while len(seen) < 160:
        done = writers.done()
        for event in await store.events.since(last, limit=7):
            assert event.id > last
            last = event.id
            seen.append((event.subject_id, event.data["n"], event.kind))
        if done and last == await store.events.last_id():
            break
    await writers
    for writer in range(4):
        own = [event for event in seen if event[0] == f"{writer}"]
        assert own == [
            (f"{writer}", n, kind) for n in range(20) for kind in ("a.first", "a.second")
        ]


async def test_an_answer_is_kept_for_the_same_request(store: Store) -> None:
    assert await store.idempotency.reserve("POST /x", "k", "hash") == Reserved()
    assert await store.idempotency.reserve("POST /x", "k", "hash") == Running()
    assert await store.idempotency.reserve("POST /x", "k", "other") == Running()
    assert await store.idempotency.reserve("POST /y", "k", "other") == Reserved()
    await store.idempotency.complete(
        "POST /x", "k", status=201, headers={"location": "/x/1"}, body=b'{"id":\x00\xff}'
    )
    answer = Done(201, {"location": "/x/1"}, b'{"id":\x00\xff}')
    assert await store.idempotency.reserve("POST /x", "k", "hash") == answer
    assert await store.idempotency.reserve("POST /x", "k", "other") == Mismatch()
    with pytest.raises(NotFound):
        await store.idempotency.complete("POST /x", "k", status=200, headers={}, body=b"")


async def test_an_abandoned_key_is_free_again(store: Store) -> None:
    await store.idempotency.reserve("s", "k", "hash")
    await store.idempotency.abandon("s", "k")
    await store.idempotency.abandon("s", "k")
    assert await store.idempotency.reserve("s", "k", "other") == Reserved()


async def test_of_many_who_reserve_a_key_at_once_one_gets_it(store: Store) -> None:
    outcomes = await asyncio.gather(
        *(store.idempotency.reserve("s", "k", "hash") for _ in range(8))
    )
    assert outcomes.count(Reserved()) == 1
    assert outcomes.count(Running()) == 7


async def test_after_a_crash_running_keys_are_freed_and_answers_kept(store: Store) -> None:
    await store.idempotency.reserve("s", "answered", "hash")
    await store.idempotency.complete("s", "answered", status=200, headers={}, body=b"")
    await store.idempotency.reserve("s", "cut off", "hash")
    assert await store.idempotency.abandon_all() == 1
    assert await store.idempotency.reserve("s", "cut off", "hash") == Reserved()
    assert await store.idempotency.reserve("s", "answered", "hash") == Done(200, {}, b"")


async def test_old_answers_are_purged_and_running_keys_are_not(store: Store) -> None:
    await store.idempotency.reserve("s", "answered", "hash")
    await store.idempotency.complete("s", "answered", status=200, headers={}, body=b"")
    await store.idempotency.reserve("s", "running", "hash")
    now = datetime.now(UTC)
    assert await store.idempotency.purge(now - timedelta(hours=24)) == 0
    assert await store.idempotency.purge(now + timedelta(seconds=1)) == 1
    assert await store.idempotency.reserve("s", "running", "hash") == Running()
    assert await store.idempotency.reserve("s", "answered", "hash") == Reserved()


async def test_of_a_scope_the_newest_answers_are_kept(store: Store) -> None:
    for scope in ("s", "other"):
        for key in ("first", "second", "third"):
            await store.idempotency.reserve(scope, key, "hash")
            await store.idempotency.complete(scope, key, status=200, headers={}, body=b"")
    await store.idempotency.reserve("s", "running", "hash")
    assert await store.idempotency.trim("s", keep=1) == 2
    assert await store.idempotency.trim("s", keep=1) == 0
    assert await store.idempotency.reserve("s", "third", "hash") == Done(200, {}, b"")
    assert await store.idempotency.reserve("s", "running", "hash") == Running()
    assert await store.idempotency.reserve("s", "first", "hash") == Reserved()
    assert await store.idempotency.reserve("other", "first", "hash") == Done(200, {}, b"")


async def test_facts_are_kept_by_name(store: Store) -> None:
    assert await store.meta.get("installation") is None
    assert await store.meta.set_default("installation", "one") == "one"
    assert await store.meta.set_default("installation", "two") == "one"
    await store.meta.set("installation", "three")
    assert await store.meta.get("installation") == "three"

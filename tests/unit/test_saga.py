"""Sagas: every step fails in turn, every undo is repeated, and nothing is left half done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.databases import new_store

from warmboot.manager.core.saga import Hook, Saga, SagaRunner, Step
from warmboot.model.errors import Conflict, HostError, Unavailable
from warmboot.model.journal.operation import Operation, OperationState
from warmboot.store import Store

NAMES = ("a", "b", "c", "d")
THING = uuid4()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with new_store(tmp_path) as opened:
        yield opened


@dataclass(slots=True)
class Notes:
    given: int = 0
    done: dict[str, int] = field(default_factory=dict)


class Recorder:
    """A saga whose steps note what is done; ``fails`` and ``undo_fails`` name steps that do.

    Each notes when it was done in the notes, and its name in the run's list.
    """

    def __init__(self, fails: str = "", undo_fails: str = "", names: tuple[str, ...] = NAMES):
        self.fails, self.undo_fails = fails, undo_fails
        self.said: list[str] = []
        self.effects: set[str] = set()
        self.notes = Notes()
        self.live: list[str] = []
        self.saga = Saga("test", Notes, *(self._step(name) for name in names))

    async def run(self, store: Store, hook: Hook | None = None) -> None:
        await SagaRunner(store, hook).run(self.saga, THING, self.notes, self.live)

    def _step(self, name: str) -> Step[Notes, list[str]]:
        async def do(notes: Notes, live: list[str]) -> None:
            self.said.append(f"do {name}")
            self.effects.add(name)
            notes.done[name] = len(self.said)
            live.append(name)
            if self.fails == name:
                raise HostError(f"{name} failed")

        async def undo(subject: UUID, _: Notes) -> None:
            assert subject == THING
            self.said.append(f"undo {name}")
            if self.undo_fails == name:
                raise HostError(f"the undo of {name} failed")
            self.effects.discard(name)

        return Step(name, do, undo)


async def nothing(*_: object) -> None:
    pass


async def only(store: Store) -> Operation:
    (operation,) = await store.operations.list(open_only=False)
    return operation


async def test_all_steps_are_done_in_order(store: Store) -> None:
    recorder = Recorder()
    recorder.notes.given = 1
    await recorder.run(store)
    assert recorder.said == ["do a", "do b", "do c", "do d"]
    assert recorder.notes == Notes(1, {"a": 1, "b": 2, "c": 3, "d": 4})
    assert recorder.live == list(NAMES)
    operation = await only(store)
    assert operation.state is OperationState.DONE
    assert operation.begun == NAMES[1:], "the first one has begun with the saga"


@pytest.mark.parametrize("fails", NAMES)
async def test_a_step_that_fails_undoes_exactly_the_begun_ones_newest_first(
    store: Store, fails: str
) -> None:
    recorder = Recorder(fails)
    with pytest.raises(HostError, match=f"{fails} failed"):
        await recorder.run(store)
    begun = NAMES[: NAMES.index(fails) + 1]
    assert recorder.said == [*(f"do {n}" for n in begun), *(f"undo {n}" for n in reversed(begun))]
    assert recorder.effects == set()
    operation = await only(store)
    assert operation.state is OperationState.UNDONE
    assert operation.begun == begun[1:]
    assert operation.error is not None
    assert operation.error["brief"] == f"{fails} failed"


@pytest.mark.parametrize("fails", NAMES)
async def test_a_hook_that_fails_is_a_step_that_fails(store: Store, fails: str) -> None:
    recorder = Recorder()

    async def hook(kind: str, step: str) -> None:
        assert kind == "test"
        if step == fails:
            raise HostError("hooked")

    with pytest.raises(HostError, match="hooked"):
        await recorder.run(store, hook)
    assert f"do {fails}" not in recorder.said
    assert recorder.said.count(f"undo {fails}") == 1, "it was journaled, so it may have begun"
    assert recorder.effects == set()


@pytest.mark.parametrize("at", NAMES)
async def test_a_cancelled_saga_is_undone_before_it_ends(store: Store, at: str) -> None:
    recorder, reached = Recorder(), asyncio.Event()

    async def hook(_: str, step: str) -> None:
        if step == at:
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(recorder.run(store, hook))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.effects == set()
    assert (await only(store)).state is OperationState.UNDONE


async def test_an_undo_is_not_cut_short_by_cancelling_again_and_again(store: Store) -> None:
    undoing, go_on = asyncio.Event(), asyncio.Event()
    undone = []

    doing = asyncio.Event()

    async def do(*_: object) -> None:
        doing.set()
        await asyncio.Event().wait()

    async def undo(*_: object) -> None:
        undoing.set()
        await go_on.wait()
        undone.append(True)

    saga = Saga("test", Notes, Step("first", nothing, undo), Step("second", do))
    task = asyncio.create_task(SagaRunner(store).run(saga, THING, Notes(), None))
    await doing.wait()
    task.cancel()
    await undoing.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)  # the undo goes on all the same
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == [True]
    assert (await only(store)).state is OperationState.UNDONE


@pytest.mark.parametrize("turns", range(1, 40, 3))
async def test_cancelled_at_any_moment_it_is_either_done_or_undone(
    store: Store, turns: int
) -> None:
    recorder = Recorder()
    task = asyncio.create_task(recorder.run(store))
    for _ in range(turns * 4):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    operations = await store.operations.list(open_only=False)
    for operation in operations:
        if operation.state is OperationState.DONE:
            assert recorder.effects == set(NAMES)
        else:
            assert operation.state is OperationState.UNDONE
            assert recorder.effects == set()
    if not operations:
        assert recorder.effects == set()


@pytest.mark.parametrize("stubborn", NAMES)
async def test_an_undo_that_fails_leaves_the_others_undone_and_is_tried_again(
    store: Store, stubborn: str
) -> None:
    recorder = Recorder("d", undo_fails=stubborn)
    runner = SagaRunner(store)
    with pytest.raises(HostError, match="d failed"):
        await recorder.run(store)
    assert recorder.effects == {stubborn}
    (operation,) = await store.operations.list()
    assert operation.state is OperationState.UNDOING

    await runner.recover(recorder.saga, operation)  # it fails again
    (operation,) = await store.operations.list()
    assert operation.state is OperationState.UNDOING

    recorder.undo_fails = ""
    await runner.recover(recorder.saga, operation)
    assert recorder.effects == set()
    assert await store.operations.list() == ()


@pytest.mark.parametrize("count", range(len(NAMES) + 1))
async def test_recovering_undoes_what_a_dead_manager_had_begun(store: Store, count: int) -> None:
    recorder = Recorder()
    begun = await store.operations.begin("test", str(THING), {"given": 1})
    for name in NAMES[:count]:
        await store.operations.note_step(begun.id, name, {"done": {name: 1}})
    (operation,) = await store.operations.list()
    await SagaRunner(store).recover(recorder.saga, operation)
    assert recorder.said == [f"undo {name}" for name in reversed(NAMES[: max(count, 1)])]
    assert await store.operations.list() == ()


async def test_a_step_that_cannot_be_undone_is_journaled_for_what_others_noted(
    store: Store,
) -> None:
    async def note(notes: Notes, _: None) -> None:
        notes.given = 7

    saga = Saga[Notes, None](
        "test",
        Notes,
        Step("a", nothing, nothing),
        Step("b", note),
        Step("c", nothing),
        Step("d", nothing),
        Step("e", nothing, nothing),
    )
    seen: list[tuple[tuple[str, ...], Any]] = []

    async def hook(_: str, __: str) -> None:
        operation = await only(store)
        seen.append((operation.begun, operation.data["given"]))

    await SagaRunner(store, hook).run(saga, THING, Notes(), None)
    assert seen == [((), 0), ((), 0), (("c",), 7), (("c",), 7), (("c", "e"), 7)]


async def undone_with(store: Store, *noted: dict[str, Any]) -> list[Notes]:
    """With which notes the step is undone of an operation that has noted this."""
    seen: list[Notes] = []

    async def undo(_: UUID, notes: Notes) -> None:
        seen.append(notes)

    operation = await store.operations.begin("test", str(THING), noted[0])
    for data in noted[1:]:
        await store.operations.note_step(operation.id, "a", data)
    saga = Saga[Notes, None]("test", Notes, Step("a", nothing, undo), Step("b", nothing))
    await SagaRunner(store).recover(saga, await only(store))
    return seen


async def test_an_undo_sees_what_was_noted_before_the_crash(store: Store) -> None:
    first, second = {"given": 1}, {"given": 1, "done": {"a": 7}}
    assert await undone_with(store, first, first, second) == [Notes(1, {"a": 7})]


async def test_an_undo_copes_with_notes_of_another_release(store: Store) -> None:
    """What that did not note has its default; what we do not know is left out."""
    assert await undone_with(store, {"given": 1, "sticker": "x"}) == [Notes(1, {})]


async def test_notes_that_cannot_be_read_undo_nothing_and_stay_in_the_journal(
    store: Store,
) -> None:
    with pytest.raises(Unavailable, match="journal of an operation test cannot be read"):
        await undone_with(store, {"given": "many"})
    assert (await only(store)).state is OperationState.RUNNING


async def test_the_error_of_a_step_is_not_hidden_by_that_of_an_undo(store: Store) -> None:
    recorder = Recorder("c", undo_fails="b")
    with pytest.raises(HostError, match="c failed"):
        await recorder.run(store)


async def test_it_is_undone_even_if_that_cannot_be_journaled(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder("c")

    async def refuse(*_: object, **__: object) -> None:
        raise Conflict("the database is away")

    monkeypatch.setattr(store.operations, "set_state", refuse)
    with pytest.raises(HostError, match="c failed"):
        await recorder.run(store)
    assert recorder.effects == set()
    monkeypatch.undo()
    (operation,) = await store.operations.list()
    await SagaRunner(store).recover(recorder.saga, operation)
    assert await store.operations.list() == ()


@settings(max_examples=20)
@given(
    names=st.lists(st.sampled_from("pqrstuvw"), min_size=1, unique=True),
    data=st.data(),
)
async def test_whatever_fails_nothing_is_left(
    store: Store, names: list[str], data: st.DataObject
) -> None:
    fails = data.draw(st.sampled_from(["", *names]))
    recorder = Recorder(fails, names=tuple(names))
    if fails:
        with pytest.raises(HostError):
            await recorder.run(store)
        assert recorder.effects == set()
    else:
        await recorder.run(store)
        assert recorder.effects == set(names)
    assert await store.operations.list() == ()


async def test_an_undo_that_raises_anything_keeps_no_other_undo_from_running(
    store: Store,
) -> None:
    recorder = Recorder("d")

    async def bug(*_: object) -> None:
        raise KeyError("a mistake of ours")

    steps = [Step(s.name, s.do, bug if s.name == "c" else s.undo) for s in recorder.saga.steps]
    saga, runner = Saga("test", Notes, *steps), SagaRunner(store)
    with pytest.raises(HostError, match="d failed"):
        await runner.run(saga, THING, Notes(), [])
    assert recorder.effects == {"c"}
    operation = await only(store)
    assert operation.state is OperationState.UNDOING
    assert not await runner.recover(saga, operation)
    assert await runner.recover(recorder.saga, operation)
    assert (await only(store)).state is OperationState.UNDONE

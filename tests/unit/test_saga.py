"""Sagas: every step fails in turn, every undo is repeated, and nothing is left half done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.absent import ABSENT
from tests.support.databases import new_store

from warmboot.manager.core.saga import Context, Saga, SagaRunner, Step
from warmboot.manager.snapshots.build_snapshot import BuildSnapshot
from warmboot.manager.vms.boot_vm import BootTimeouts, BootVm
from warmboot.model.errors import Conflict, HostError
from warmboot.model.journal.operation import Operation, OperationState
from warmboot.store import Store

NAMES = ("a", "b", "c", "d")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with new_store(tmp_path) as opened:
        yield opened


class Recorder:
    """A saga whose steps note what is done; ``fails`` and ``undo_fails`` name steps that do."""

    def __init__(self, fails: str = "", undo_fails: str = "", names: tuple[str, ...] = NAMES):
        self.fails, self.undo_fails = fails, undo_fails
        self.said: list[str] = []
        self.effects: set[str] = set()
        self.saga = Saga("test", tuple(self._step(name) for name in names))

    def _step(self, name: str) -> Step:
        async def do(context: Context) -> None:
            self.said.append(f"do {name}")
            self.effects.add(name)
            context.data[name] = len(self.said)
            if self.fails == name:
                raise HostError(f"{name} failed")

        async def undo(context: Context) -> None:
            self.said.append(f"undo {name}")
            if self.undo_fails == name:
                raise HostError(f"the undo of {name} failed")
            self.effects.discard(name)

        return Step(name, do, undo)


async def only(store: Store) -> Operation:
    (operation,) = await store.operations.list(open_only=False)
    return operation


async def test_all_steps_are_done_in_order(store: Store) -> None:
    recorder = Recorder()
    context = await SagaRunner(store).run(recorder.saga, "thing", {"given": 1})
    assert recorder.said == ["do a", "do b", "do c", "do d"]
    assert context.data == {"given": 1, "a": 1, "b": 2, "c": 3, "d": 4}
    operation = await only(store)
    assert operation.state is OperationState.DONE
    assert operation.begun == NAMES[1:], "the first one has begun with the saga"


@pytest.mark.parametrize("fails", NAMES)
async def test_a_step_that_fails_undoes_exactly_the_begun_ones_newest_first(
    store: Store, fails: str
) -> None:
    recorder = Recorder(fails)
    with pytest.raises(HostError, match=f"{fails} failed"):
        await SagaRunner(store).run(recorder.saga, "thing", {})
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
        await SagaRunner(store, hook).run(recorder.saga, "thing", {})
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

    task = asyncio.create_task(SagaRunner(store, hook).run(recorder.saga, "thing", {}))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.effects == set()
    assert (await only(store)).state is OperationState.UNDONE


async def test_an_undo_is_not_cut_short_by_cancelling_again_and_again(store: Store) -> None:
    undoing, go_on = asyncio.Event(), asyncio.Event()
    undone = []

    async def do(_: Context) -> None:
        await asyncio.Event().wait()

    async def undo(_: Context) -> None:
        undoing.set()
        await go_on.wait()
        undone.append(True)

    async def nothing(_: Context) -> None:
        pass

    saga = Saga("test", (Step("first", nothing, undo), Step("second", do)))
    task = asyncio.create_task(SagaRunner(store).run(saga, "thing", {}))
    await asyncio.sleep(0.05)
    task.cancel()
    await undoing.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
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
    task = asyncio.create_task(SagaRunner(store).run(recorder.saga, "thing", {}))
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
        await runner.run(recorder.saga, "thing", {})
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
    begun = await store.operations.begin("test", "thing", {"given": 1})
    for name in NAMES[:count]:
        await store.operations.note_step(begun.id, name, {f"noted {name}": True})
    (operation,) = await store.operations.list()
    await SagaRunner(store).recover(recorder.saga, operation)
    assert recorder.said == [f"undo {name}" for name in reversed(NAMES[: max(count, 1)])]
    assert await store.operations.list() == ()


async def test_a_step_that_cannot_be_undone_is_journaled_for_what_others_noted(
    store: Store,
) -> None:
    async def nothing(_: Context) -> None:
        pass

    async def note(context: Context) -> None:
        context.data["slot"] = 7

    saga = Saga(
        "test",
        (
            Step("a", nothing, nothing),
            Step("b", note, nothing),
            Step("c", nothing),
            Step("d", nothing),
            Step("e", nothing, nothing),
        ),
        known=2,
    )
    seen: list[tuple[tuple[str, ...], Mapping[str, Any]]] = []

    async def hook(_: str, __: str) -> None:
        operation = await only(store)
        seen.append((operation.begun, operation.data))

    await SagaRunner(store, hook).run(saga, "thing", {})
    assert seen == [
        ((), {}),
        ((), {}),
        (("c",), {"slot": 7}),
        (("c",), {"slot": 7}),
        (("c", "e"), {"slot": 7}),
    ]


async def test_an_undo_sees_what_was_noted_before_the_crash(store: Store) -> None:
    seen: list[dict[str, Any]] = []

    async def nothing(_: Context) -> None:
        pass

    async def undo(context: Context) -> None:
        seen.append(dict(context.data))

    operation = await store.operations.begin("test", "thing", {"vm_id": "vm-1"})
    await store.operations.note_step(operation.id, "a", {"vm_id": "vm-1"})
    await store.operations.note_step(operation.id, "b", {"vm_id": "vm-1", "slot": 7})
    (operation,) = await store.operations.list()
    saga = Saga("test", (Step("a", nothing, undo), Step("b", nothing)))
    await SagaRunner(store).recover(saga, operation)
    assert seen == [{"vm_id": "vm-1", "slot": 7}]


async def test_the_error_of_a_step_is_not_hidden_by_that_of_an_undo(store: Store) -> None:
    recorder = Recorder("c", undo_fails="b")
    with pytest.raises(HostError, match="c failed"):
        await SagaRunner(store).run(recorder.saga, "thing", {})


async def test_it_is_undone_even_if_that_cannot_be_journaled(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder("c")

    async def refuse(*_: object, **__: object) -> None:
        raise Conflict("the database is away")

    monkeypatch.setattr(store.operations, "set_state", refuse)
    with pytest.raises(HostError, match="c failed"):
        await SagaRunner(store).run(recorder.saga, "thing", {})
    assert recorder.effects == set()
    monkeypatch.undo()
    (operation,) = await store.operations.list()
    await SagaRunner(store).recover(recorder.saga, operation)
    assert await store.operations.list() == ()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from("pqrstuvw"), min_size=1, unique=True),
    data=st.data(),
)
async def test_whatever_fails_nothing_is_left(
    store: Store, names: list[str], data: st.DataObject
) -> None:
    fails = data.draw(st.sampled_from(["", *names]))
    recorder = Recorder(fails, names=tuple(names))
    runner = SagaRunner(store)
    if fails:
        with pytest.raises(HostError):
            await runner.run(recorder.saga, "thing", {})
        assert recorder.effects == set()
    else:
        await runner.run(recorder.saga, "thing", {})
        assert recorder.effects == set(names)
    assert await store.operations.list() == ()


@pytest.mark.parametrize(
    "saga",
    [
        BootVm(ABSENT, ABSENT, ABSENT, ABSENT, BootTimeouts()).saga,
        BuildSnapshot(ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, 1).saga,
    ],
    ids=lambda saga: saga.kind,
)
def test_the_steps_of_a_real_saga_have_names_of_their_own(saga: Saga) -> None:
    names = [step.name for step in saga.steps]
    assert len(set(names)) == len(names)


async def test_an_undo_that_raises_anything_keeps_no_other_undo_from_running(
    store: Store,
) -> None:
    recorder = Recorder("d")

    async def bug(_: Context) -> None:
        raise KeyError("a mistake of ours")

    steps = [Step(s.name, s.do, bug if s.name == "c" else s.undo) for s in recorder.saga.steps]
    saga, runner = Saga("test", tuple(steps)), SagaRunner(store)
    with pytest.raises(HostError, match="d failed"):
        await runner.run(saga, "thing", {})
    assert recorder.effects == {"c"}
    operation = await only(store)
    assert operation.state is OperationState.UNDOING
    assert not await runner.recover(saga, operation)
    assert await runner.recover(recorder.saga, operation)
    assert (await only(store)).state is OperationState.UNDONE

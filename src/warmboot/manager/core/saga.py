"""Sagas: several steps that are all completed or all undone, even after ``kill -9``.

Before a step begins that can be undone, its name and everything that earlier steps noted are
written to the journal (the ``operations`` table). So the journal always names every step that may
have to be undone; the first one may as soon as the operation is in there:

    run      begin ─▶ a.do ─▶ note b ─▶ b.do ─▶ note c ─▶ … ─▶ done
                                  │ error
                                  ▼
    undo     undoing ─▶ b.undo ─▶ a.undo ─▶ undone            (newest first; also at next start)

An undo must therefore cope with a step that did everything, a part, or nothing, and may be run
twice. It finds what to undo by names that were chosen before the step, not by results: it is given
the notes, which are journaled, and not what the steps have in memory, which dies with us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

import structlog
from pydantic import TypeAdapter, ValidationError

from warmboot.model.errors import Unavailable, WarmbootError
from warmboot.model.journal.operation import Operation, OperationState
from warmboot.store import Store
from warmboot.system.concurrency import finish

N = TypeVar("N")
"""Notes: a dataclass that is journaled. What an earlier release did not note has a default."""
L = TypeVar("L")
"""What a run's steps share in memory."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Step(Generic[N, L]):
    """``undo`` is given the saga's subject."""

    name: str
    do: Callable[[N, L], Awaitable[None]]
    undo: Callable[[UUID, N], Awaitable[None]] | None = None


class Saga(Generic[N, L]):
    def __init__(self, kind: str, notes: type[N], *steps: Step[N, L]) -> None:
        self.kind = kind
        self.steps = steps
        self._notes = TypeAdapter(notes)

    def encode(self, notes: N) -> dict[str, Any]:
        data: dict[str, Any] = self._notes.dump_python(notes, mode="json")
        return data

    def decode(self, operation: Operation) -> N:
        """``Unavailable``; what an earlier or later release notes besides is left out."""
        try:
            return self._notes.validate_python(dict(operation.data))
        except ValidationError as error:
            raise Unavailable(
                f"the journal of an operation {self.kind} cannot be read",
                details=str(error),
                resolution="run the version of warmboot that wrote it, or restore a backup",
            ) from error


Hook = Callable[[str, str], Awaitable[None]]
"""Called with the saga's kind and the step's name before a step is done."""


class SagaRunner:
    """Runs sagas and, after a restart, undoes those that were not finished."""

    def __init__(self, store: Store, hook: Hook | None = None) -> None:
        self._store = store
        self._hook = hook

    async def run(self, saga: Saga[N, L], subject_id: UUID, notes: N, live: L) -> None:
        """All steps in order; on any error (or cancellation) all begun ones are undone first."""
        noted = saga.encode(notes)
        operation = await self._begin(saga, subject_id, notes)
        begun: list[Step[N, L]] = []
        try:
            for step in saga.steps:
                begun.append(step)
                now = saga.encode(notes)
                is_known = step.undo is None or len(begun) == 1
                if not is_known or now != noted:
                    noted = now
                    await self._store.operations.note_step(operation.id, step.name, noted)
                if self._hook is not None:
                    await self._hook(saga.kind, step.name)
                await step.do(notes, live)
        except BaseException as error:  # cancelled, too; raised again
            # To the end: a cancelled request must not leave half a machine behind.
            await finish(self._undo(saga, operation, notes, begun, error))
            raise
        await finish(self._done(saga, operation, notes, begun))

    async def recover(self, saga: Saga[N, L], operation: Operation) -> bool:
        """Undo what a manager that was killed had begun; whether all of it is undone."""
        names = {step.name for step in saga.steps[:1]} | set(operation.begun)
        begun = [step for step in saga.steps if step.name in names]
        return await self._undo(saga, operation, saga.decode(operation), begun, None)

    async def _begin(self, saga: Saga[N, L], subject_id: UUID, notes: N) -> Operation:
        """Journal it; what is journaled although we were cancelled is closed."""
        beginning = asyncio.ensure_future(
            self._store.operations.begin(saga.kind, str(subject_id), saga.encode(notes))
        )
        try:
            return await finish(beginning)
        except asyncio.CancelledError as error:
            if beginning.exception() is None:
                await finish(self._undo(saga, beginning.result(), notes, [], error))
            raise

    async def _done(
        self, saga: Saga[N, L], operation: Operation, notes: N, begun: list[Step[N, L]]
    ) -> None:
        """Journal its end; what cannot be journaled is undone."""
        try:
            await self._store.operations.set_state(operation.id, OperationState.DONE)
        except BaseException as error:  # whatever it is; raised again
            await self._undo(saga, operation, notes, begun, error)
            raise

    async def _undo(
        self,
        saga: Saga[N, L],
        operation: Operation,
        notes: N,
        begun: list[Step[N, L]],
        error: BaseException | None,
    ) -> bool:
        clean = True
        if operation.state is OperationState.RUNNING:
            try:
                await self._store.operations.set_state(
                    operation.id, OperationState.UNDOING, error=_described(error)
                )
            except WarmbootError as failure:
                # Undone all the same. It stays in the journal: the next start looks again.
                clean = False
                log.error("undo could not be journaled", saga=saga.kind, error=str(failure))
        for step in reversed(begun):
            if step.undo is None:
                continue
            try:
                await step.undo(UUID(operation.subject_id), notes)
            except Exception as failure:  # whatever it is: all others must be undone, too
                # The next start tries again.
                clean = False
                log.exception("undo failed", saga=saga.kind, step=step.name, error=str(failure))
        if clean:
            try:
                await self._store.operations.set_state(operation.id, OperationState.UNDONE)
            except (
                WarmbootError
            ) as failure:  # it is undone: the next start does it again, and notes
                log.error("an undo was not journaled", saga=saga.kind, error=str(failure))
        return clean


def _described(error: BaseException | None) -> dict[str, Any] | None:
    if error is None:
        return None
    if isinstance(error, WarmbootError):
        return error.as_dict()
    return {"code": "internal", "brief": repr(error), "details": "", "resolution": ""}

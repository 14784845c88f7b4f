"""Sagas: several steps that all happen or are all undone, ``kill -9`` included.

Before a step begins that can be undone, its name and everything that earlier steps noted are
written to the journal (the ``operations`` table). So the journal always names every step that may
have to be undone; the first one may as soon as the operation is in there:

    run      begin ─▶ a.do ─▶ note b ─▶ b.do ─▶ note c ─▶ … ─▶ done
                                  │ error
                                  ▼
    undo     undoing ─▶ b.undo ─▶ a.undo ─▶ undone            (newest first; also at next start)

An undo must therefore cope with a step that did everything, a part, or nothing, and may be run
twice. It finds what to undo by names that were chosen before the step (``data``), not by results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import structlog

from warmboot.model.errors import WarmbootError
from warmboot.model.journal.operation import Operation, OperationState
from warmboot.store import Store

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Context:
    """What a saga's steps share. ``data`` is journaled (JSON only); ``live`` dies with us."""

    operation_id: UUID
    subject_id: str
    data: dict[str, Any]
    live: dict[str, Any]


Action = Callable[[Context], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    do: Action
    undo: Action | None = None


@dataclass(frozen=True, slots=True)
class Saga:
    """``known``: so many of the first steps may have begun as soon as the saga has."""

    kind: str
    steps: tuple[Step, ...]
    known: int = 1


Hook = Callable[[str, str], Awaitable[None]]
"""Called with the saga's kind and the step's name before a step is done."""


class SagaRunner:
    """Runs sagas and, after a restart, undoes those that were not finished."""

    def __init__(self, store: Store, hook: Hook | None = None) -> None:
        self._store = store
        self._hook = hook

    async def run(
        self,
        saga: Saga,
        subject_id: str,
        data: Mapping[str, Any],
        live: dict[str, Any] | None = None,
    ) -> Context:
        """All steps in order; on any error (or cancellation) all begun ones are undone first."""
        operation, cancelled = await _to_the_end(
            self._store.operations.begin(saga.kind, subject_id, dict(data))
        )
        context = Context(operation.id, subject_id, dict(data), {} if live is None else live)
        begun: list[Step] = []
        noted = dict(data)
        try:
            _raise_if(cancelled)
            for step in saga.steps:
                begun.append(step)
                known = step.undo is None or len(begun) <= saga.known
                if not known or context.data != noted:
                    noted = dict(context.data)
                    await self._store.operations.note_step(operation.id, step.name, noted)
                if self._hook is not None:
                    await self._hook(saga.kind, step.name)
                await step.do(context)
            _, cancelled = await _to_the_end(
                self._store.operations.set_state(operation.id, OperationState.DONE)
            )
        except BaseException as error:  # cancelled, too; raised again
            # To the end: a cancelled request must not leave half a machine behind.
            _, cancelled = await _to_the_end(self._undo(saga, operation, context, begun, error))
            _raise_if(cancelled)
            raise
        _raise_if(cancelled)
        return context

    async def recover(self, saga: Saga, operation: Operation) -> bool:
        """Undo what a manager that was killed had begun; whether all of it is undone."""
        names = {step.name for step in saga.steps[: saga.known]} | set(operation.begun)
        begun = [step for step in saga.steps if step.name in names]
        context = Context(operation.id, operation.subject_id, dict(operation.data), {})
        return await self._undo(saga, operation, context, begun, None)

    async def _undo(
        self,
        saga: Saga,
        operation: Operation,
        context: Context,
        begun: list[Step],
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
                await step.undo(context)
            except Exception as failure:
                # Whatever it is: all others must be undone, too. The next start tries again.
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


async def _to_the_end(work: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """The result of ``work``, which is not cancelled, and whether we were meanwhile."""
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    return task.result(), cancelled


def _raise_if(cancelled: bool) -> None:
    if cancelled:
        raise asyncio.CancelledError


def _described(error: BaseException | None) -> dict[str, Any] | None:
    if error is None:
        return None
    if isinstance(error, WarmbootError):
        return error.as_dict()
    return {"code": "internal", "brief": repr(error), "details": "", "resolution": ""}

"""Repository of the journal of sagas.

Noting a step is one INSERT into ``operation_steps``, never a change of what was noted before; an
``Operation`` is put together when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import ColumnElement

from warmboot.model.errors import Conflict, NotFound
from warmboot.model.journal.operation import Operation, OperationState
from warmboot.model.transitions import Transitions
from warmboot.store.clock import now
from warmboot.store.database import Database
from warmboot.store.lenient import Rows, UnreadableRow
from warmboot.store.repositories.guard import Changes
from warmboot.store.storable import FreeForm
from warmboot.store.tables import operation_steps, operations
from warmboot.store.types import Encoded, SafeText, UtcDateTime

OPEN = (OperationState.RUNNING, OperationState.UNDOING)
CLOSED = (OperationState.DONE, OperationState.UNDONE)

# Made once: a boot notes many steps, and making a statement takes longer than running it.
_BEGIN = operations.insert().returning(*operations.c)
_NOTE_STEP = (
    operation_steps.insert()
    .from_select(
        ["operation_id", "step", "data", "at"],
        select(
            operations.c.id,
            bindparam("step_", type_=SafeText()),
            bindparam("data_", type_=Encoded(FreeForm)),
            bindparam("at_", type_=UtcDateTime()),
        ).where(operations.c.id == bindparam("operation_id_"), operations.c.state.in_(OPEN)),
    )
    .returning(operation_steps.c.id)
)

OPERATION_TRANSITIONS = Transitions(
    "operation",
    {
        OperationState.RUNNING: frozenset({OperationState.DONE, OperationState.UNDOING}),
        OperationState.UNDOING: frozenset({OperationState.UNDONE}),
        OperationState.DONE: frozenset(),
        OperationState.UNDONE: frozenset(),
    },
)

_CHANGES = Changes(operations, [operations.c.id], OPERATION_TRANSITIONS)


ROWS = Rows(operations, lambda values: Operation(**values, begun=()))
STEPS: Rows[dict[str, Any]] = Rows(operation_steps, lambda values: values)


def _with_steps(operation: Operation, steps: Iterable[dict[str, Any]]) -> Operation:
    begun: dict[str, None] = {}
    data = dict(operation.data)
    for step in steps:
        begun[step["step"]] = None
        data |= step["data"]
    return replace(operation, begun=tuple(begun), data=data)


def _unknown(operation_id: UUID) -> NotFound:
    return NotFound(f"there is no operation {operation_id}")


class OperationRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(
        self, kind: str, subject_id: str, data: Mapping[str, Any] | None = None
    ) -> Operation:
        """Open a journal entry."""
        at = now()
        values = {
            "id": uuid4(),
            "kind": kind,
            "subject_id": subject_id,
            "state": OperationState.RUNNING,
            "data": data or {},
            "created_at": at,
            "updated_at": at,
        }
        async with self._database.write(alone=True) as connection:
            return ROWS.one((await connection.execute(_BEGIN, values)).one())

    async def get(self, operation_id: UUID) -> Operation:
        async with self._database.read() as connection:
            found, unreadable = await _read(connection, operations.c.id == operation_id)
        for row in unreadable:
            raise row.error()
        if not found:
            raise _unknown(operation_id)
        return found[0]

    async def note_step(
        self, operation_id: UUID, step: str, data: Mapping[str, Any] | None = None
    ) -> None:
        """``step`` has begun, or, when noted again, has something to add: ``data``, key by key.

        ``Conflict`` if the operation has ended, ``NotFound``.
        """
        values = {
            "operation_id_": operation_id,
            "step_": step,
            "data_": data or {},
            "at_": now(),
        }
        async with self._database.write(alone=True) as connection:
            noted = await connection.execute(_NOTE_STEP, values)
            if noted.first() is not None:
                return
            query = select(operations.c.state).where(operations.c.id == operation_id)
            state = await connection.scalar(query)
            if state is None:
                raise _unknown(operation_id)
            raise Conflict(f"the operation {operation_id} is {state}: it takes no more steps")

    async def set_state(
        self, operation_id: UUID, new: OperationState, error: Mapping[str, Any] | None = None
    ) -> None:
        """Change the state; an ``error`` stays. ``IllegalTransition``, ``NotFound``."""
        changes: dict[str, Any] = {"updated_at": now()}
        if error is not None:
            changes["error"] = error
        async with self._database.write(alone=True) as connection:
            row = await _CHANGES.move(connection, operation_id, new, changes)
            if row is None:
                raise _unknown(operation_id)

    async def list(self, *, open_only: bool = True) -> tuple[Operation, ...]:
        """The operations that have not ended, or all; oldest first."""
        wanted = operations.c.state.in_(OPEN if open_only else OPEN + CLOSED)
        async with self._database.read() as connection:
            return (await _read(connection, wanted))[0]

    async def unreadable(self) -> tuple[UnreadableRow, ...]:
        """What cannot be read of those that may not have ended."""
        async with self._database.read() as connection:
            return (await _read(connection, operations.c.state.not_in(CLOSED)))[1]

    async def purge(self, older_than: datetime) -> int:
        """Forget those that ended before ``older_than``; how many."""
        async with self._database.write() as connection:
            gone = await connection.execute(
                delete(operations).where(
                    operations.c.state.in_(CLOSED), operations.c.updated_at < older_than
                )
            )
            return gone.rowcount


async def _read(
    connection: AsyncConnection, wanted: ColumnElement[bool]
) -> tuple[tuple[Operation, ...], tuple[UnreadableRow, ...]]:
    """An operation without one of its steps would not be undone as a whole: it is left out, too."""
    rows = await connection.execute(
        select(*ROWS.columns).where(wanted).order_by(operations.c.created_at, operations.c.id)
    )
    steps = await connection.execute(
        select(*STEPS.columns).join(operations).where(wanted).order_by(operation_steps.c.id)
    )
    read, unreadable = ROWS.apart(rows)
    noted, damaged = STEPS.apart(steps)
    lacking = {row.values.get("operation_id") for row in damaged}
    of: dict[UUID, list[dict[str, Any]]] = {}
    for step in noted:
        of.setdefault(step["operation_id"], []).append(step)
    whole = [_with_steps(one, of.get(one.id, ())) for one in read if one.id not in lacking]
    return tuple(whole), (*unreadable, *damaged)

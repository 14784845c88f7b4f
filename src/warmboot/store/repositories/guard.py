"""Guarded updates: a state changes only from where that is legal, decided by the database."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Row, Table, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningUpdate

from warmboot.model.errors import IllegalTransition
from warmboot.model.transitions import Transitions
from warmboot.store.clock import now

S = TypeVar("S", bound=StrEnum)

_ID = "id_of_row"


def check_fields(changes: Mapping[str, Any], allowed: Collection[str]) -> None:
    """``TypeError`` if something is to be changed that cannot be."""
    unknown = changes.keys() - set(allowed)
    if unknown:
        raise TypeError(f"{', '.join(sorted(unknown))} cannot be changed")


def with_shape(fields: Mapping[str, Any]) -> dict[str, Any]:
    """``fields`` as columns: a shape is two of them; every change leaves its time."""
    columns = {**fields, "updated_at": now()}
    shape = columns.pop("shape", None)
    if shape is not None:
        columns |= {"vcpus": shape.vcpus, "memory_mib": shape.memory_mib}
    return columns


class Updates:
    """UPDATEs of one table's rows, by their ids, each returning ``columns``.

    ``computed`` are columns that the database itself makes of what they are. The statement is made
    once: making one takes longer than running it.
    """

    def __init__(
        self, table: Table, columns: Sequence[ColumnElement[Any]], **computed: Any
    ) -> None:
        statement = update(table).where(table.c.id == bindparam(_ID)).returning(*columns)
        self._update = statement.values(computed) if computed else statement

    async def update(
        self, connection: AsyncConnection, row_id: object, changes: Mapping[str, Any]
    ) -> Row[Any] | None:
        """The row as it is now, or ``None`` if there is none."""
        values = {**changes, _ID: row_id}
        row: Row[Any] | None = (await connection.execute(self._update, values)).first()
        return row


class Changes(Updates, Generic[S]):
    """``Updates`` of rows that have a state, which changes only from where that is legal."""

    def __init__(
        self, table: Table, columns: Sequence[ColumnElement[Any]], transitions: Transitions[S]
    ) -> None:
        super().__init__(table, columns)
        self._table = table
        self._transitions = transitions
        self._moves: dict[S, ReturningUpdate[Any]] = {}

    async def move(
        self, connection: AsyncConnection, row_id: object, new: S, changes: Mapping[str, Any]
    ) -> Row[Any] | None:
        """Make the row's state ``new``; the row, or ``None`` if there is none.

        ``IllegalTransition`` if ``new`` may not follow what the state is by now.
        """
        values = {**changes, _ID: row_id, "state": new}
        row: Row[Any] | None = (await connection.execute(self._move(new), values)).first()
        if row is not None:
            return row
        known = self._table.c
        old: S | None = await connection.scalar(select(known.state).where(known.id == row_id))
        if old is None:
            return None
        self._transitions.check(old, new)
        raise IllegalTransition(
            f"a {self._transitions.what} could not become {new}",
            details="it was changed at the same time",
            resolution="check its state and try again",
        )

    def _move(self, new: S) -> ReturningUpdate[Any]:
        if new not in self._moves:
            legal = self._table.c.state.in_(sorted(self._transitions.sources(new)))
            self._moves[new] = self._update.where(legal)
        return self._moves[new]

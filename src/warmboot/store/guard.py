"""Guarded updates: a state changes only from where that is legal, decided by the database."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Column, Row, Table, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from warmboot.model.errors import IllegalTransition
from warmboot.model.transitions import Transitions
from warmboot.store.clock import now

S = TypeVar("S", bound=StrEnum)


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


async def move(
    connection: AsyncConnection,
    table: Table,
    columns: Sequence[Column[Any]],
    row_id: UUID,
    transitions: Transitions[S],
    new: S,
    changes: Mapping[str, Any],
) -> Row[Any] | None:
    """Make the row's state ``new``; the row, or ``None`` if there is none.

    ``IllegalTransition`` if ``new`` may not follow what the state is by now.
    """
    statement = (
        update(table)
        .where(table.c.id == row_id, table.c.state.in_(sorted(transitions.sources(new))))
        .values(**changes, state=new)
        .returning(*columns)
    )
    row = (await connection.execute(statement)).first()
    if row is not None:
        return row
    old: S | None = await connection.scalar(select(table.c.state).where(table.c.id == row_id))
    if old is None:
        return None
    transitions.check(old, new)
    raise IllegalTransition(
        f"a {transitions.what} could not become {new}",
        details="it was being changed at the same moment",
        resolution="look at it and try again",
    )

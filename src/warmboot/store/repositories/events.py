"""Repository of events: an append-only log that is read from the last known id onwards.

An event becomes visible only after all with smaller ids (see ``database``), so reading on from the
last id seen never misses one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select

from warmboot.model.journal.event import Event
from warmboot.store.clock import now
from warmboot.store.database import Database
from warmboot.store.lenient import Rows
from warmboot.store.tables import events

_APPEND = events.insert().returning(*events.c)
ROWS = Rows(events, lambda values: Event(**values))


class EventRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(
        self, kind: str, subject_id: str, data: Mapping[str, Any] | None = None
    ) -> Event:
        values = {"at": now(), "kind": kind, "subject_id": subject_id, "data": data or {}}
        async with self._database.write(alone=True, in_turn=True) as connection:
            return Event(**(await connection.execute(_APPEND, values)).one()._mapping)

    async def since(
        self, last_id: int, limit: int = 100, kinds: Collection[str] = ()
    ) -> tuple[Event, ...]:
        """The events after ``last_id``, of some ``kinds`` or all, at most ``limit``, in order."""
        query = select(*ROWS.columns).order_by(events.c.id).limit(limit)
        if kinds:
            query = query.where(events.c.kind.in_(sorted(kinds)))
        async with self._database.read() as connection:
            while True:
                rows = list(await connection.execute(query.where(events.c.id > last_id)))
                found = ROWS.all(rows)
                if found or not rows:
                    return found
                last_id = rows[-1].id  # none of them can be read: on to the next

    async def of_kind(self, kind: str, since: datetime) -> tuple[Event, ...]:
        """The events of one kind that happened after ``since``, in order."""
        query = (
            select(*ROWS.columns)
            .where(events.c.kind == kind, events.c.at > since)
            .order_by(events.c.id)
        )
        async with self._database.read() as connection:
            return ROWS.all(await connection.execute(query))

    async def last_id(self) -> int:
        """The newest event's id, 0 if there is none: from here on is the future."""
        async with self._database.read() as connection:
            return await connection.scalar(select(func.max(events.c.id))) or 0

    async def trim(self, keep: int) -> int:
        """Forget all but the newest ``keep``; how many."""
        statement = delete(events)
        if keep:
            oldest = select(events.c.id).order_by(events.c.id.desc()).limit(1).offset(keep - 1)
            statement = statement.where(events.c.id < oldest.scalar_subquery())
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount

    async def trim_reports(self, kind: str, keep: int, subject_id: str | None = None) -> int:
        """Forget all but the newest ``keep`` of a kind of each subject, or of one; how many."""
        of_kind = events.c.kind == kind
        if subject_id is not None:
            of_kind &= events.c.subject_id == subject_id
        newest_first = func.row_number().over(
            partition_by=events.c.subject_id, order_by=events.c.id.desc()
        )
        ranked = select(events.c.id, newest_first.label("rank")).where(of_kind).subquery()
        surplus = select(ranked.c.id).where(ranked.c.rank > keep)
        async with self._database.write() as connection:
            return (
                await connection.execute(delete(events).where(events.c.id.in_(surplus)))
            ).rowcount

"""Repositories of what has an id and a state; most of it has a name, too.

Records            by id: get, set_state, update, remove
  └─ NamedRecords  also add, find and list: containers, engines, workers
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from enum import StrEnum
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import Table, and_, bindparam, delete, or_, select

from warmboot.model.errors import Conflict, NameTaken, NotFound
from warmboot.model.shapes import Shape
from warmboot.model.transitions import Transitions
from warmboot.store.database import Database
from warmboot.store.lenient import Rows
from warmboot.store.repositories.guard import Changes, check_fields, with_shape
from warmboot.store.storable import is_storable

_HEX_ID = re.compile(r"[0-9a-f]{1,32}")


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)
S = TypeVar("S", bound=StrEnum)


def shaped(values: dict[str, Any]) -> dict[str, Any]:
    """A row's columns as fields: two of them are a shape."""
    values["shape"] = Shape(values.pop("vcpus"), values.pop("memory_mib"))
    return values


class Kind(Generic[T, S]):
    """A table of things of one kind, and the statements that are made for it once.

    ``fields`` are those of ``T``, of which ``fixed`` never change; ``listed`` says how a user sees
    them all.
    """

    def __init__(
        self,
        what: str,
        listed: str,
        rows: Rows[T],
        transitions: Transitions[S],
        fields: Collection[str],
        fixed: Collection[str] = ("spec",),
    ) -> None:
        self.what, self.listed, self.rows, self.fields = what, listed, rows, tuple(fields)
        self.table: Table = rows.table
        self.changeable = frozenset(fields) - {"id", "state", "created_at", *fixed}
        self.changes = Changes(rows.table, rows.columns, transitions)
        self.by_id = select(*rows.columns).where(rows.table.c.id == bindparam("id"))

    def unknown(self, reference: object) -> NotFound:
        return NotFound(f"there is no {self.what} {reference}", resolution=self.listed)


class Records(Generic[T, S]):
    KIND: ClassVar[Kind[Any, Any]]

    def __init__(self, database: Database) -> None:
        self._database = database
        self._of: Kind[T, S] = self.KIND
        self._table, self._rows = self._of.table, self._of.rows
        insert = database.insert(self._table).on_conflict_do_nothing()
        self._insert = insert.returning(self._table.c.id)

    async def _add(
        self, thing: T, taken: NameTaken, refusal: NotFound | None, **more: object
    ) -> None:
        values = with_shape({name: getattr(thing, name) for name in self._of.fields}) | more
        async with self._database.write(refusal, alone=True) as connection:
            if (await connection.execute(self._insert, values)).first() is None:
                raise taken

    async def get(self, thing_id: UUID) -> T:
        """The one with this id, or ``NotFound``."""
        async with self._database.read() as connection:
            row = (await connection.execute(self._of.by_id, {"id": thing_id})).first()
        if row is None:
            raise self._of.unknown(thing_id)
        return self._rows.one(row)

    async def set_state(self, thing_id: UUID, new: S, **changes: Any) -> T:
        """Change the state, and fields along with it. ``IllegalTransition``, ``NotFound``."""
        check_fields(changes, self._of.changeable)
        async with self._database.write(alone=True) as connection:
            row = await self._of.changes.move(connection, thing_id, new, with_shape(changes))
            if row is None:
                raise self._of.unknown(thing_id)
            return self._rows.one(row)

    async def update(self, thing_id: UUID, **changes: Any) -> T:
        """Change fields, but not the state. ``NotFound``."""
        check_fields(changes, self._of.changeable)
        async with self._database.write(alone=True) as connection:
            row = await self._of.changes.update(connection, thing_id, with_shape(changes))
            if row is None:
                raise self._of.unknown(thing_id)
            return self._rows.one(row)

    async def remove(self, thing_id: UUID) -> bool:
        """Forget it, and what belongs to it; whether it was there."""
        async with self._database.write(alone=True) as connection:
            gone = await connection.execute(delete(self._table).where(self._table.c.id == thing_id))
            return gone.rowcount > 0


class NamedRecords(Records[T, S]):
    async def add(self, thing: T) -> None:
        """``NameTaken``; ``NotFound`` if its runtime image or snapshot is not there."""
        taken = NameTaken(
            f"there is {_a(self._of.what)} named {thing.name!r} already",
            resolution="choose another name, or remove that one",
        )
        missing = NotFound(f"the {self._of.what}'s runtime image or snapshot no longer exists")
        await self._add(thing, taken, missing, name=thing.name)

    async def find(self, reference: str) -> T:
        """The one with this id, this name, or this unique beginning of an id, in this order.

        ``NotFound``; ``Conflict`` if several ids begin like this.
        """
        if not is_storable(reference):
            raise self._of.unknown(repr(reference))
        digits = reference.lower().replace("-", "")
        if len(digits) == 32 and _HEX_ID.fullmatch(digits):
            with contextlib.suppress(NotFound):
                return await self.get(UUID(digits))
        named = self._table.c.name == reference
        conditions = [named]
        if _HEX_ID.fullmatch(digits):
            first, last = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
            conditions.append(and_(self._table.c.id >= first, self._table.c.id <= last))
        # The one of this name first: a short beginning of an id has any number of others.
        query = select(*self._rows.columns).where(or_(*conditions)).order_by(named.desc()).limit(3)
        async with self._database.read() as connection:
            found, unreadable = self._rows.apart(await connection.execute(query))
        for thing in found:
            if thing.name == reference:
                return thing
        for row in unreadable:  # it may be the one
            raise row.error()
        if not found:
            raise self._of.unknown(reference)
        if len(found) > 1:
            raise Conflict(
                f"several {self._of.what}s' ids begin with {reference}",
                resolution="use more characters of the id, or the name",
            )
        return found[0]

    async def list(
        self, states: Collection[S] | None = None, *, limit: int | None = None
    ) -> tuple[T, ...]:
        """Those in ``states`` (any), newest first, at most ``limit``."""
        newest_first = self._table.c.created_at.desc(), self._table.c.id.desc()
        query = select(*self._rows.columns).order_by(*newest_first)
        if states is not None:
            query = query.where(self._table.c.state.in_(sorted(states)))
        async with self._database.read() as connection:
            return self._rows.all(await connection.execute(query.limit(limit)))


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"

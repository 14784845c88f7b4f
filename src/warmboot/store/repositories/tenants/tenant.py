"""Repository of tenants: of things with a name and a state that have a VM of their own."""

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


class Tenants(Generic[T, S]):
    """A table of tenants, and the statements that are made for it once.

    ``fields`` are those of ``T``; ``command`` lists all of them for a user.
    """

    def __init__(
        self,
        what: str,
        command: str,
        rows: Rows[T],
        transitions: Transitions[S],
        fields: Collection[str],
    ) -> None:
        self.what, self.command, self.rows, self.fields = what, command, rows, tuple(fields)
        self.table: Table = rows.table
        self.changeable = frozenset(fields) - {"id", "spec", "state", "created_at"}
        self.changes = Changes(rows.table, rows.columns, transitions)
        self.by_id = select(*rows.columns).where(rows.table.c.id == bindparam("id"))

    def unknown(self, reference: object) -> NotFound:
        return NotFound(f"there is no {self.what} {reference}", resolution=f"see `{self.command}`")


class TenantRepository(Generic[T, S]):
    TENANTS: ClassVar[Tenants[Any, Any]]

    def __init__(self, database: Database) -> None:
        self._database = database
        self._of: Tenants[T, S] = self.TENANTS
        self._table, self._rows = self._of.table, self._of.rows
        insert = database.insert(self._table).on_conflict_do_nothing()
        self._add = insert.returning(self._table.c.id)

    async def add(self, tenant: T) -> None:
        """``NameTaken``; ``NotFound`` if its runtime image or snapshot is not there."""
        values = with_shape({name: getattr(tenant, name) for name in self._of.fields})
        values["name"] = tenant.name
        missing = NotFound(f"the {self._of.what}'s runtime image or snapshot no longer exists")
        async with self._database.write(missing, alone=True) as connection:
            if (await connection.execute(self._add, values)).first() is None:
                raise NameTaken(
                    f"there is {_a(self._of.what)} named {tenant.name!r} already",
                    resolution="choose another name, or remove that one",
                )

    async def get(self, tenant_id: UUID) -> T:
        """The tenant, or ``NotFound``."""
        async with self._database.read() as connection:
            row = (await connection.execute(self._of.by_id, {"id": tenant_id})).first()
        if row is None:
            raise self._of.unknown(tenant_id)
        return self._rows.one(row)

    async def find(self, reference: str) -> T:
        """The tenant with this id, this name, or this unique beginning of an id, in this order.

        ``NotFound``; ``Conflict`` if several ids begin like this.
        """
        if not is_storable(reference):
            raise self._of.unknown(repr(reference))
        digits = reference.lower().replace("-", "")
        if len(digits) == 32 and _HEX_ID.fullmatch(digits):
            with contextlib.suppress(NotFound):
                return await self.get(UUID(digits))
        conditions = [self._table.c.name == reference]
        if _HEX_ID.fullmatch(digits):
            first, last = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
            conditions.append(and_(self._table.c.id >= first, self._table.c.id <= last))
        query = (
            select(*self._rows.columns).where(or_(*conditions)).order_by(self._table.c.id).limit(3)
        )
        async with self._database.read() as connection:
            rows = list(await connection.execute(query))
            if len(rows) == 3:
                # Only a beginning so short can hide a name behind others.
                rows += await connection.execute(select(*self._rows.columns).where(conditions[0]))
        found, unreadable = self._rows.apart(rows)
        for tenant in found:
            if tenant.name == reference:
                return tenant
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

    async def set_state(self, tenant_id: UUID, new: S, **changes: Any) -> T:
        """Change the state, and fields along with it. ``IllegalTransition``, ``NotFound``."""
        check_fields(changes, self._of.changeable)
        async with self._database.write(alone=True) as connection:
            row = await self._of.changes.move(connection, tenant_id, new, with_shape(changes))
            if row is None:
                raise self._of.unknown(tenant_id)
            return self._rows.one(row)

    async def update(self, tenant_id: UUID, **changes: Any) -> T:
        """Change fields, but not the state. ``NotFound``."""
        check_fields(changes, self._of.changeable)
        async with self._database.write(alone=True) as connection:
            row = await self._of.changes.update(connection, tenant_id, with_shape(changes))
            if row is None:
                raise self._of.unknown(tenant_id)
            return self._rows.one(row)

    async def remove(self, tenant_id: UUID) -> bool:
        """Forget it; whether it was there."""
        async with self._database.write(alone=True) as connection:
            gone = await connection.execute(
                delete(self._table).where(self._table.c.id == tenant_id)
            )
            return gone.rowcount > 0


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"

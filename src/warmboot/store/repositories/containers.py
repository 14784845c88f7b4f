"""Repository of users' containers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from dataclasses import fields
from typing import Any
from uuid import UUID

from sqlalchemy import and_, bindparam, delete, or_, select

from warmboot.model.container import CONTAINER_TRANSITIONS, Container, ContainerState
from warmboot.model.errors import Conflict, NameTaken, NotFound
from warmboot.model.shapes import Shape
from warmboot.store.database import Database
from warmboot.store.lenient import Rows
from warmboot.store.repositories.guard import Changes, check_fields, with_shape
from warmboot.store.storable import is_storable
from warmboot.store.tables import containers

_FIELDS = [field.name for field in fields(Container)]
_CHANGEABLE = frozenset(_FIELDS) - {"id", "spec", "state", "created_at"}
_HEX_ID = re.compile(r"[0-9a-f]{1,32}")


def _container(values: dict[str, Any]) -> Container:
    values["shape"] = Shape(values.pop("vcpus"), values.pop("memory_mib"))
    return Container(**values)


ROWS = Rows(containers, _container, omit=("name", "updated_at"))
_CHANGES = Changes(containers, ROWS.columns, CONTAINER_TRANSITIONS)
_BY_ID = select(*ROWS.columns).where(containers.c.id == bindparam("id"))


def _unknown(reference: object) -> NotFound:
    return NotFound(f"there is no container {reference}", resolution="see `warmboot ps --all`")


class ContainerRepository:
    def __init__(self, database: Database) -> None:
        self._database = database
        insert = database.insert(containers).on_conflict_do_nothing()
        self._add = insert.returning(containers.c.id)

    async def add(self, container: Container) -> None:
        """``NameTaken``; ``NotFound`` if its runtime image or snapshot is not there."""
        values = with_shape({name: getattr(container, name) for name in _FIELDS})
        values["name"] = container.name
        missing = NotFound("the container's runtime image or snapshot no longer exists")
        async with self._database.write(missing, alone=True) as connection:
            if (await connection.execute(self._add, values)).first() is None:
                raise NameTaken(
                    f"there is a container named {container.name!r} already",
                    resolution="choose another name, or remove that one",
                )

    async def get(self, container_id: UUID) -> Container:
        """The container, or ``NotFound``."""
        async with self._database.read() as connection:
            row = (await connection.execute(_BY_ID, {"id": container_id})).first()
        if row is None:
            raise _unknown(container_id)
        return ROWS.one(row)

    async def find(self, reference: str) -> Container:
        """By whole id, name, or unique beginning of an id, in this order.

        ``NotFound``; ``Conflict`` if several ids begin like this.
        """
        if not is_storable(reference):
            raise _unknown(repr(reference))
        digits = reference.lower().replace("-", "")
        if len(digits) == 32 and _HEX_ID.fullmatch(digits):
            with contextlib.suppress(NotFound):
                return await self.get(UUID(digits))
        conditions = [containers.c.name == reference]
        if _HEX_ID.fullmatch(digits):
            first, last = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
            conditions.append(and_(containers.c.id >= first, containers.c.id <= last))
        query = select(*ROWS.columns).where(or_(*conditions)).order_by(containers.c.id).limit(3)
        async with self._database.read() as connection:
            rows = list(await connection.execute(query))
            if len(rows) == 3:
                # Only a beginning so short can hide a name behind others.
                rows += await connection.execute(select(*ROWS.columns).where(conditions[0]))
        found, unreadable = ROWS.apart(rows)
        for container in found:
            if container.name == reference:
                return container
        for row in unreadable:  # it may be the one
            raise row.error()
        if not found:
            raise _unknown(reference)
        if len(found) > 1:
            raise Conflict(
                f"several containers' ids begin with {reference}",
                resolution="use more characters of the id, or the name",
            )
        return found[0]

    async def list(
        self, states: Collection[ContainerState] | None = None, *, limit: int | None = None
    ) -> tuple[Container, ...]:
        """The containers in ``states`` (any), newest first, at most ``limit``."""
        newest_first = containers.c.created_at.desc(), containers.c.id.desc()
        query = select(*ROWS.columns).order_by(*newest_first)
        if states is not None:
            query = query.where(containers.c.state.in_(sorted(states)))
        async with self._database.read() as connection:
            return ROWS.all(await connection.execute(query.limit(limit)))

    async def set_state(self, container_id: UUID, new: ContainerState, **changes: Any) -> Container:
        """Change the state, and fields along with it. ``IllegalTransition``, ``NotFound``."""
        check_fields(changes, _CHANGEABLE)
        async with self._database.write(alone=True) as connection:
            row = await _CHANGES.move(connection, container_id, new, with_shape(changes))
            if row is None:
                raise _unknown(container_id)
            return ROWS.one(row)

    async def update(self, container_id: UUID, **changes: Any) -> Container:
        """Change fields, but not the state. ``NotFound``."""
        check_fields(changes, _CHANGEABLE)
        async with self._database.write(alone=True) as connection:
            row = await _CHANGES.update(connection, container_id, with_shape(changes))
            if row is None:
                raise _unknown(container_id)
            return ROWS.one(row)

    async def remove(self, container_id: UUID) -> bool:
        """Forget it; whether it was there."""
        async with self._database.write(alone=True) as connection:
            gone = await connection.execute(
                delete(containers).where(containers.c.id == container_id)
            )
            return gone.rowcount > 0

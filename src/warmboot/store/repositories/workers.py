"""Repository of workers: containers of the host's own engine."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from dataclasses import fields
from typing import Any
from uuid import UUID

from sqlalchemy import and_, delete, or_, select

from warmboot.model.errors import Conflict, NameTaken, NotFound
from warmboot.model.worker import WORKER_TRANSITIONS, Worker, WorkerState
from warmboot.store.database import Database
from warmboot.store.lenient import Rows
from warmboot.store.repositories.guard import Changes, check_fields, with_shape
from warmboot.store.storable import is_storable
from warmboot.store.tables import workers

_FIELDS = [field.name for field in fields(Worker)]
_CHANGEABLE = frozenset(_FIELDS) - {"id", "spec", "state", "created_at"}
_HEX_ID = re.compile(r"[0-9a-f]{1,32}")
_FEW = 20  # beginnings of ids so short that more workers share them are no way to name one

ROWS = Rows(workers, lambda values: Worker(**values), omit=("name", "updated_at"))
_CHANGES = Changes(workers, ROWS.columns, WORKER_TRANSITIONS)


def _unknown(reference: object) -> NotFound:
    return NotFound(f"there is no worker {reference}", resolution="see `warmboot worker ls`")


class WorkerRepository:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._add = database.insert(workers).on_conflict_do_nothing().returning(workers.c.id)

    async def add(self, worker: Worker) -> None:
        """``NameTaken`` if there is one of that name."""
        values = with_shape({name: getattr(worker, name) for name in _FIELDS})
        values["name"] = worker.name
        async with self._database.write() as connection:
            if (await connection.execute(self._add, values)).first() is None:
                raise NameTaken(
                    f"there is a worker named {worker.name!r} already",
                    resolution="choose another name, or remove that one",
                )

    async def get(self, worker_id: UUID) -> Worker:
        """The worker, or ``NotFound``."""
        query = select(*ROWS.columns).where(workers.c.id == worker_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            raise _unknown(worker_id)
        return ROWS.one(row)

    async def find(self, reference: str) -> Worker:
        """The worker with this id, this name, or this unique beginning of an id, in this order.

        ``NotFound``; ``Conflict`` if several ids begin like this.
        """
        if not is_storable(reference):
            raise _unknown(repr(reference))
        digits = reference.lower().replace("-", "")
        if len(digits) == 32 and _HEX_ID.fullmatch(digits):
            with contextlib.suppress(NotFound):
                return await self.get(UUID(digits))
        named = workers.c.name == reference
        conditions = [named]
        if _HEX_ID.fullmatch(digits):
            first, last = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
            conditions.append(and_(workers.c.id >= first, workers.c.id <= last))
        query = select(*ROWS.columns).where(or_(*conditions)).order_by(named.desc()).limit(_FEW)
        async with self._database.read() as connection:
            found, unreadable = ROWS.apart(await connection.execute(query))
        exact = [worker for worker in found if worker.name == reference]
        if exact:
            return exact[0]
        for row in unreadable:  # it may be the one
            raise row.error()
        if not found:
            raise _unknown(reference)
        if len(found) > 1:
            raise Conflict(
                f"several workers' ids begin with {reference}",
                resolution="use more characters of the id, or the name",
            )
        return found[0]

    async def list(self, states: Collection[WorkerState] | None = None) -> tuple[Worker, ...]:
        """The workers in ``states`` (any), newest first."""
        query = select(*ROWS.columns).order_by(workers.c.created_at.desc(), workers.c.id.desc())
        if states is not None:
            query = query.where(workers.c.state.in_(sorted(states)))
        async with self._database.read() as connection:
            return ROWS.all(await connection.execute(query))

    async def set_state(self, worker_id: UUID, new: WorkerState, **changes: Any) -> Worker:
        """Change the state, and fields along with it. ``IllegalTransition``, ``NotFound``."""
        check_fields(changes, _CHANGEABLE)
        async with self._database.write() as connection:
            row = await _CHANGES.move(connection, worker_id, new, with_shape(changes))
            if row is None:
                raise _unknown(worker_id)
            return ROWS.one(row)

    async def update(self, worker_id: UUID, **changes: Any) -> Worker:
        """Change fields, but not the state. ``NotFound``."""
        check_fields(changes, _CHANGEABLE)
        async with self._database.write() as connection:
            row = await _CHANGES.update(connection, worker_id, with_shape(changes))
            if row is None:
                raise _unknown(worker_id)
            return ROWS.one(row)

    async def remove(self, worker_id: UUID) -> bool:
        """Forget it and its checkpoints; whether it was there."""
        async with self._database.write() as connection:
            gone = await connection.execute(delete(workers).where(workers.c.id == worker_id))
            return gone.rowcount > 0

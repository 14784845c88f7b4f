"""Checkpoints of workers. A name is unique within its worker."""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select

from warmboot.model.checkpoint import CHECKPOINT_TRANSITIONS, Checkpoint, CheckpointState
from warmboot.model.errors import NameTaken, NotFound
from warmboot.store.database import Database
from warmboot.store.lenient import Rows
from warmboot.store.repositories.guard import Changes, check_fields, with_shape
from warmboot.store.tables import checkpoints

_FIELDS = [field.name for field in fields(Checkpoint)]
_CHANGEABLE = frozenset(_FIELDS) - {"id", "worker_id", "name", "state", "created_at"}

ROWS = Rows(checkpoints, lambda values: Checkpoint(**values), omit=("updated_at",))
_CHANGES = Changes(checkpoints, ROWS.columns, CHECKPOINT_TRANSITIONS)


def _unknown(reference: object) -> NotFound:
    return NotFound(
        f"there is no checkpoint {reference}",
        resolution="list the worker's with `warmboot worker checkpoints`",
    )


class CheckpointRepository:
    def __init__(self, database: Database) -> None:
        self._database = database
        insert = database.insert(checkpoints).on_conflict_do_nothing()
        self._add = insert.returning(checkpoints.c.id)

    async def add(self, checkpoint: Checkpoint) -> None:
        """``NameTaken``; ``NotFound`` if its worker is not there."""
        values = with_shape({name: getattr(checkpoint, name) for name in _FIELDS})
        missing = NotFound("the checkpoint's worker no longer exists")
        async with self._database.write(missing) as connection:
            if (await connection.execute(self._add, values)).first() is None:
                raise NameTaken(
                    f"the worker has a checkpoint named {checkpoint.name!r} already",
                    resolution="choose another name, or delete that one",
                )

    async def get(self, checkpoint_id: UUID) -> Checkpoint:
        """The checkpoint, or ``NotFound``."""
        query = select(*ROWS.columns).where(checkpoints.c.id == checkpoint_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            raise _unknown(checkpoint_id)
        return ROWS.one(row)

    async def named(self, worker_id: UUID, name: str) -> Checkpoint:
        """The worker's checkpoint of that name, or ``NotFound``."""
        query = select(*ROWS.columns).where(
            checkpoints.c.worker_id == worker_id, checkpoints.c.name == name
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            raise _unknown(repr(name))
        return ROWS.one(row)

    async def of_worker(self, worker_id: UUID, *, readable: bool = False) -> tuple[Checkpoint, ...]:
        """All of a worker's, newest first.

        ``RowUnreadable`` if one cannot be read: what is decided by them all would be wrong.
        ``readable``: those that can be.
        """
        made = ROWS.all if readable else ROWS.every
        query = (
            select(*ROWS.columns)
            .where(checkpoints.c.worker_id == worker_id)
            .order_by(checkpoints.c.created_at.desc(), checkpoints.c.id.desc())
        )
        async with self._database.read() as connection:
            return made(await connection.execute(query))

    async def set_state(
        self, checkpoint_id: UUID, new: CheckpointState, **changes: Any
    ) -> Checkpoint:
        """Change the state, and fields along with it. ``IllegalTransition``, ``NotFound``."""
        check_fields(changes, _CHANGEABLE)
        async with self._database.write() as connection:
            row = await _CHANGES.move(connection, checkpoint_id, new, with_shape(changes))
            if row is None:
                raise _unknown(checkpoint_id)
            return ROWS.one(row)

    async def update(self, checkpoint_id: UUID, **changes: Any) -> Checkpoint:
        """Change fields, but not the state. ``NotFound``."""
        check_fields(changes, _CHANGEABLE)
        async with self._database.write() as connection:
            row = await _CHANGES.update(connection, checkpoint_id, with_shape(changes))
            if row is None:
                raise _unknown(checkpoint_id)
            return ROWS.one(row)

    async def remove(self, checkpoint_id: UUID) -> bool:
        """Forget it; whether it was there."""
        async with self._database.write() as connection:
            gone = await connection.execute(
                delete(checkpoints).where(checkpoints.c.id == checkpoint_id)
            )
            return gone.rowcount > 0

"""Checkpoints of workers. A name is unique within its worker."""

from __future__ import annotations

from dataclasses import fields
from uuid import UUID

from sqlalchemy import select

from warmboot.model.checkpoint import CHECKPOINT_TRANSITIONS, Checkpoint, CheckpointState
from warmboot.model.errors import NameTaken, NotFound
from warmboot.store.lenient import Rows
from warmboot.store.repositories.named.records import Kind, Records
from warmboot.store.tables import checkpoints

ROWS = Rows(checkpoints, lambda values: Checkpoint(**values), omit=("updated_at",))


class CheckpointRepository(Records[Checkpoint, CheckpointState]):
    KIND = Kind(
        "checkpoint",
        "list the worker's with `warmboot worker checkpoints`",
        ROWS,
        CHECKPOINT_TRANSITIONS,
        [field.name for field in fields(Checkpoint)],
        fixed=("worker_id", "name"),
    )

    async def add(self, checkpoint: Checkpoint) -> None:
        """``NameTaken``; ``NotFound`` if its worker is not there."""
        taken = NameTaken(
            f"the worker has a checkpoint named {checkpoint.name!r} already",
            resolution="choose another name, or delete that one",
        )
        await self._add(checkpoint, taken, NotFound("the checkpoint's worker no longer exists"))

    async def named(self, worker_id: UUID, name: str) -> Checkpoint:
        """The worker's checkpoint of that name, or ``NotFound``."""
        query = select(*ROWS.columns).where(
            checkpoints.c.worker_id == worker_id, checkpoints.c.name == name
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            raise self._of.unknown(repr(name))
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

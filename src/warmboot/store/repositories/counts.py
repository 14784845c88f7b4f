"""Counts of rows by state: cheap queries, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, type_coerce

from warmboot.model.journal.operation import OperationState
from warmboot.store.database import Database
from warmboot.store.lenient import Damage, Lenient
from warmboot.store.tables import (
    checkpoints,
    containers,
    engines,
    images,
    leases,
    operations,
    runtime_snapshots,
    vms,
    workers,
)

UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts by state or kind: one of which there is none is not named; ``unreadable`` are those
    that cannot be read.

    ``leases`` by snapshot.
    """

    images: int
    snapshots: Mapping[str, int]
    containers: Mapping[str, int]
    engines: Mapping[str, int]
    workers: Mapping[str, int]
    checkpoints: Mapping[str, int]
    checkpoint_bytes: int
    vms: Mapping[str, int]
    leases: Mapping[UUID, int]
    unfinished: int


class CountQueries:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self) -> Counts:
        async with self._database.read() as connection:

            async def by(column: ColumnElement[object]) -> Mapping[object, int]:
                read = type_coerce(column, Lenient(column.type))
                found = await connection.execute(select(read, func.count()).group_by(column))
                counted: Counter[object] = Counter()
                for key, count in found:
                    counted[UNREADABLE if isinstance(key, Damage) else key] += int(count)
                return counted

            async def states(column: ColumnElement[object]) -> Mapping[str, int]:
                return {str(key): count for key, count in (await by(column)).items()}

            known = select(func.count()).where(images.c.deleted_at.is_(None))
            running = select(func.count()).where(operations.c.state == OperationState.RUNNING)
            held = await by(leases.c.snapshot_id)
            return Counts(
                images=await connection.scalar(known) or 0,
                snapshots=await states(runtime_snapshots.c.state),
                containers=await states(containers.c.state),
                engines=await states(engines.c.state),
                workers=await states(workers.c.state),
                checkpoints=await states(checkpoints.c.state),
                checkpoint_bytes=int(
                    await connection.scalar(select(func.sum(checkpoints.c.size_bytes))) or 0
                ),
                vms=await states(vms.c.kind),
                leases={key: count for key, count in held.items() if isinstance(key, UUID)},
                unfinished=await connection.scalar(running) or 0,
            )

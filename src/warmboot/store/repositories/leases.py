"""Leases: who needs a snapshot's files. They stay in place until the last one is given back."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import bindparam, delete, select

from warmboot.model.errors import Conflict, NotFound
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.store.clock import now
from warmboot.store.database import Database
from warmboot.store.tables import leases, runtime_snapshots
from warmboot.store.types import SafeText, UtcDateTime

LEASABLE = (SnapshotState.READY, SnapshotState.UNHEALTHY)
_LEASE_SOURCE = (
    select(
        runtime_snapshots.c.id,
        bindparam("holder_id_", type_=SafeText()),
        bindparam("created_at_", type_=UtcDateTime()),
    )
    .where(
        runtime_snapshots.c.id == bindparam("snapshot_id_"),
        runtime_snapshots.c.state.in_(LEASABLE),
    )
    .with_for_update(read=True)
)


def unknown_snapshot(snapshot_id: object) -> NotFound:
    return NotFound(
        f"there is no runtime snapshot {snapshot_id}",
        resolution="see `warmboot snapshot ls`",
    )


class LeaseRepository:
    def __init__(self, database: Database) -> None:
        self._database = database
        insert = database.insert(leases).from_select(
            ["snapshot_id", "holder_id", "created_at"], _LEASE_SOURCE
        )
        self._lease = insert.on_conflict_do_nothing().returning(leases.c.snapshot_id)

    async def lease(self, snapshot_id: UUID, holder_id: str) -> None:
        """Keep its files in place for ``holder_id``; repeating it changes nothing.

        ``Conflict`` unless it is ready or unhealthy. The row is share-locked on the way, so that a
        delete at the same moment comes either before (no lease) or after (the lease is seen).
        """
        values = {"snapshot_id_": snapshot_id, "holder_id_": holder_id, "created_at_": now()}
        async with self._database.write(alone=True) as connection:
            if (await connection.execute(self._lease, values)).first() is not None:
                return
            query = select(runtime_snapshots.c.state).where(runtime_snapshots.c.id == snapshot_id)
            state = await connection.scalar(query)
            if state is None:
                raise unknown_snapshot(snapshot_id)
            if state not in LEASABLE:
                raise Conflict(
                    f"the runtime snapshot {snapshot_id} cannot be used",
                    details=f"it is {state}",
                    resolution="use another one, or boot cold",
                )

    async def share_leases(self, of: str, holder_id: str) -> None:
        """Have ``holder_id`` hold all that ``of`` holds, deleted ones too: they are there as long
        as it does."""
        held = select(
            leases.c.snapshot_id,
            bindparam("holder_id_", type_=SafeText()),
            bindparam("created_at_", type_=UtcDateTime()),
        ).where(leases.c.holder_id == bindparam("of_", type_=SafeText()))
        insert = self._database.insert(leases).from_select(
            ["snapshot_id", "holder_id", "created_at"], held
        )
        values = {"holder_id_": holder_id, "created_at_": now(), "of_": of}
        async with self._database.write(alone=True) as connection:
            await connection.execute(insert.on_conflict_do_nothing(), values)

    async def release(self, holder_id: str) -> int:
        """Give back all that ``holder_id`` has leased; how many those were."""
        async with self._database.write(alone=True) as connection:
            gone = await connection.execute(delete(leases).where(leases.c.holder_id == holder_id))
            return gone.rowcount

    async def leased_by(self, holder_id: str) -> tuple[UUID, ...]:
        """What it holds, longest first."""
        query = (
            select(leases.c.snapshot_id)
            .where(leases.c.holder_id == holder_id)
            .order_by(leases.c.created_at, leases.c.snapshot_id)
        )
        async with self._database.read() as connection:
            return tuple((await connection.execute(query)).scalars())

    async def leases(self, snapshot_id: UUID) -> tuple[str, ...]:
        """Who holds it, longest first."""
        query = (
            select(leases.c.holder_id)
            .where(leases.c.snapshot_id == snapshot_id)
            .order_by(leases.c.created_at, leases.c.holder_id)
        )
        async with self._database.read() as connection:
            return tuple((await connection.execute(query)).scalars())

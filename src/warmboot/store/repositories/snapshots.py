"""Repository of runtime snapshots, their health, and the leases that keep their files.

States change by guarded updates: the states from which the new one is legal stand in the UPDATE's
WHERE, so of two that race one wins and the other gets ``IllegalTransition``.

    lease ──▶ VM maps the files ──▶ release          only while ready or unhealthy
    set_state(deleted) ──▶ no new leases ──▶ the last one released ──▶ files removed ──▶ purge
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from warmboot.model.errors import Conflict, IllegalTransition, InUse, NameTaken
from warmboot.model.runtime_snapshot import (
    SNAPSHOT_TRANSITIONS,
    Depth,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.shapes import Shape
from warmboot.store.clock import now
from warmboot.store.lenient import Rows
from warmboot.store.repositories.guard import Changes, Updates, check_fields, with_shape
from warmboot.store.repositories.images import remove_forgotten, unknown_image
from warmboot.store.repositories.leases import LEASABLE, LeaseRepository, unknown_snapshot
from warmboot.store.repositories.named.records import shaped
from warmboot.store.storable import is_storable
from warmboot.store.tables import images, leases, runtime_snapshots

_FIELDS = [field.name for field in fields(RuntimeSnapshot)]
_CHANGEABLE = frozenset(_FIELDS) - {
    *("id", "runtime_image_id", "state", "created_at", "version", "depth"),
}

ROWS = Rows(
    runtime_snapshots, lambda values: RuntimeSnapshot(**shaped(values)), omit=("updated_at",)
)
_CHANGES = Changes(runtime_snapshots, ROWS.columns, SNAPSHOT_TRANSITIONS)
_SUCCESS = Updates(
    runtime_snapshots,
    ROWS.columns,
    success_count=runtime_snapshots.c.success_count + 1,
    consecutive_failures=0,
)
_BOOTS = (
    select(runtime_snapshots.c.boots)
    .where(runtime_snapshots.c.id == bindparam("id"))
    .with_for_update()
)
_NEWEST_FIRST = (runtime_snapshots.c.created_at.desc(), runtime_snapshots.c.id.desc())
_OF_IMAGE = (
    select(*ROWS.columns)
    .where(
        runtime_snapshots.c.runtime_image_id == bindparam("image_id"),
        runtime_snapshots.c.state != SnapshotState.DELETED,
        runtime_snapshots.c.depth == Depth.RUNTIME,
    )
    .order_by(*_NEWEST_FIRST)
)


_OF_DEPTH_IMAGE = (
    select(*ROWS.columns)
    .where(
        runtime_snapshots.c.runtime_image_id == bindparam("image_id"),
        runtime_snapshots.c.state != SnapshotState.DELETED,
        runtime_snapshots.c.depth == Depth.IMAGE,
    )
    .order_by(*_NEWEST_FIRST)
)


def _taken(name: str) -> NameTaken:
    return NameTaken(
        f"there is a snapshot named {name!r} already",
        resolution=f"choose another name, or remove that one (`warmboot snapshot rm {name}`)",
    )


class RuntimeSnapshotRepository(LeaseRepository):
    async def add(self, snapshot: RuntimeSnapshot) -> RuntimeSnapshot:
        """The snapshot with its version's number. ``NotFound`` if its image is not there,
        ``NameTaken``.

        One that replaces another begins with that one's weight and pin.
        """
        image_id = snapshot.runtime_image_id
        refusal = unknown_image(image_id) if snapshot.name is None else _taken(snapshot.name)
        async with self._database.write(refusal) as connection:
            numbered = replace(
                snapshot,
                version=await _number(connection, snapshot),
                **await _inherited(connection, snapshot),
            )
            await connection.execute(
                runtime_snapshots.insert().values(
                    with_shape({name: getattr(numbered, name) for name in _FIELDS})
                )
            )
            return numbered

    async def get(self, snapshot_id: UUID) -> RuntimeSnapshot:
        """The snapshot, deleted ones included until they are purged; or ``NotFound``."""
        async with self._database.read() as connection:
            return await _get(connection, snapshot_id)

    async def find(self, reference: str) -> RuntimeSnapshot:
        """One that is not deleted, by its name or whole id; or ``NotFound``."""
        known = runtime_snapshots.c
        condition = known.name == reference
        with contextlib.suppress(ValueError):
            condition = known.id == UUID(reference)
        if is_storable(reference):
            found = await self._many(
                select(*ROWS.columns).where(condition, known.state != SnapshotState.DELETED)
            )
            if found:
                return found[0]
        raise unknown_snapshot(reference)

    async def lying_on(self, snapshot_id: UUID) -> tuple[RuntimeSnapshot, ...]:
        """Those that are not deleted and need this one, newest first."""
        known = runtime_snapshots.c
        return await self._many(
            select(*ROWS.columns).where(
                known.parent_id == snapshot_id, known.state != SnapshotState.DELETED
            )
        )

    async def list(self, *, include_deleted: bool = False) -> tuple[RuntimeSnapshot, ...]:
        """All, newest first."""
        query = select(*ROWS.columns)
        if not include_deleted:
            query = query.where(runtime_snapshots.c.state != SnapshotState.DELETED)
        return await self._many(query)

    async def for_image(
        self, image_id: UUID, shape: Shape | None = None
    ) -> tuple[RuntimeSnapshot, ...]:
        """An image's versions that are not deleted, of any shape or one; newest first."""
        async with self._database.read() as connection:
            rows = await connection.execute(_OF_IMAGE, {"image_id": image_id})
            found = ROWS.all(rows)
        return tuple(one for one in found if shape is None or one.shape == shape)

    async def with_image(self, image_id: UUID, reference: str) -> tuple[RuntimeSnapshot, ...]:
        """Those of the depth ``image`` of a runtime image that have this image, by its name and
        tag, and are not deleted; newest first."""
        async with self._database.read() as connection:
            found = ROWS.all(await connection.execute(_OF_DEPTH_IMAGE, {"image_id": image_id}))
        return tuple(one for one in found if one.image == reference)

    async def set_state(
        self, snapshot_id: UUID, new: SnapshotState, **changes: Any
    ) -> RuntimeSnapshot:
        """Change the state, and fields along with it. ``IllegalTransition``, ``NotFound``."""
        check_fields(changes, _CHANGEABLE)
        async with self._database.write() as connection:
            return await _move(connection, snapshot_id, new, changes)

    async def set_traits(
        self, snapshot_id: UUID, *, weight: float | None = None, pinned: bool | None = None
    ) -> RuntimeSnapshot:
        """Change how often it is chosen, and whether it may be collected.

        A successor that is being built has it, too, so that of two changes the later one counts.
        ``Conflict`` if it is deleted, ``NotFound`` if there is none.
        """
        wanted: dict[str, Any] = {"weight": weight, "pinned": pinned}
        changes = {k: v for k, v in wanted.items() if v is not None} | {"updated_at": now()}
        known = runtime_snapshots.c
        change = update(runtime_snapshots).values(changes)
        this = change.where(known.id == snapshot_id, known.state != SnapshotState.DELETED)
        heirs = change.where(known.replaces == snapshot_id, known.state == SnapshotState.CREATING)
        async with self._database.write() as connection:
            # First the old one: its row's lock keeps a successor from beginning in between.
            row = (await connection.execute(this.returning(*ROWS.columns))).first()
            if row is not None:
                await connection.execute(heirs)
                return ROWS.one(row)
            await _get(connection, snapshot_id)
            raise Conflict(
                f"the runtime snapshot {snapshot_id} was deleted",
                details="its files go as soon as no VM maps them",
                resolution="`warmboot snapshot create` builds a new version",
            )

    async def swap(self, old_id: UUID, new_id: UUID) -> RuntimeSnapshot:
        """The new one becomes ready and the old one deleted, both or neither. The new one."""
        async with self._database.transaction(), self._database.write() as connection:
            await _move(connection, old_id, SnapshotState.DELETED, {})
            return await _move(connection, new_id, SnapshotState.READY, {})

    async def record_success(
        self, snapshot_id: UUID, at: datetime, boot_s: float | None = None
    ) -> RuntimeSnapshot:
        """A boot from it succeeded: counted, and its failures are no longer consecutive.

        ``boot_s`` is how long it took, where that is known.
        """
        changes = {"last_used_at": at, "updated_at": now()}
        async with self._database.write() as connection:
            if boot_s is not None:
                boots = await connection.scalar(_BOOTS, {"id": snapshot_id})
                if boots is None:
                    raise unknown_snapshot(snapshot_id)
                changes["boots"] = boots.plus(boot_s)
            row = await _SUCCESS.update(connection, snapshot_id, changes)
            if row is None:
                raise unknown_snapshot(snapshot_id)
            return ROWS.one(row)

    async def record_failure(
        self, snapshot_id: UUID, error: Mapping[str, Any], at: datetime
    ) -> RuntimeSnapshot:
        """A boot from it failed. Look at ``consecutive_failures`` of what is returned."""
        return await self._count(
            snapshot_id,
            failure_count=runtime_snapshots.c.failure_count + 1,
            consecutive_failures=runtime_snapshots.c.consecutive_failures + 1,
            last_used_at=at,
            error=error,
        )

    async def record_rebuild_failure(
        self, snapshot_id: UUID, not_before: datetime | None
    ) -> RuntimeSnapshot:
        """A rebuild that the manager began by itself has failed; ``None``: it is given up."""
        return await self._count(
            snapshot_id,
            rebuild_failures=runtime_snapshots.c.rebuild_failures + 1,
            rebuild_not_before=not_before,
            rebuild_put_off_by=None,
        )

    async def put_off_rebuild(
        self, snapshot_id: UUID, not_before: datetime, cause: str
    ) -> RuntimeSnapshot:
        """The next rebuild waits; no failure is counted. ``cause`` is an error's code."""
        return await self._count(
            snapshot_id, rebuild_not_before=not_before, rebuild_put_off_by=cause
        )

    async def forget_rebuild_failures(self, snapshot_id: UUID) -> RuntimeSnapshot:
        """The next rebuild may begin at once, as if none had failed."""
        return await self._count(
            snapshot_id, rebuild_failures=0, rebuild_not_before=None, rebuild_put_off_by=None
        )

    async def update_metadata(
        self, snapshot_id: UUID, metadata: Mapping[str, Any]
    ) -> RuntimeSnapshot:
        """Merge ``metadata`` over what is there, key by key."""
        query = select(runtime_snapshots.c.metadata).where(runtime_snapshots.c.id == snapshot_id)
        async with self._database.write() as connection:
            row = (await connection.execute(query.with_for_update())).first()
            if row is None:
                raise unknown_snapshot(snapshot_id)
            return await _change(connection, snapshot_id, metadata={**row.metadata, **metadata})

    async def retire(self, seen: RuntimeSnapshot) -> bool:
        """Mark it deleted if it is as it was ``seen``, and nothing holds it; whether that was so.

        What holds it: a lease, a pin, a successor that is being built. The row is locked before
        they are looked for, so that a lease at the same moment is either seen or refused.
        """
        successor = runtime_snapshots.alias()
        lock = select(*ROWS.columns).where(runtime_snapshots.c.id == seen.id).with_for_update()
        held = select(leases.c.holder_id).where(leases.c.snapshot_id == seen.id)
        built = select(successor.c.id).where(
            successor.c.replaces == seen.id, successor.c.state == SnapshotState.CREATING
        )
        async with self._database.transaction(), self._database.write() as connection:
            row = (await connection.execute(lock)).first()
            now = None if row is None else ROWS.one(row)
            if now is None or (now.state, now.last_used_at) != (seen.state, seen.last_used_at):
                return False
            if now.pinned or now.state not in LEASABLE:
                return False
            for query in (held, built):
                if (await connection.execute(query.limit(1))).first() is not None:
                    return False
            await _move(connection, seen.id, SnapshotState.DELETED, {})
            return True

    async def purge(self, snapshot_id: UUID) -> None:
        """Forget a deleted snapshot whose files are gone; nothing happens if it is forgotten.

        ``InUse`` while it is leased, ``IllegalTransition`` if it is not deleted.
        """
        held = InUse(
            f"the runtime snapshot {snapshot_id} is in use",
            details="VMs map its files",
            resolution="try again when those have ended",
        )
        async with self._database.write(held) as connection:
            gone = await connection.execute(
                delete(runtime_snapshots).where(
                    runtime_snapshots.c.id == snapshot_id,
                    runtime_snapshots.c.state == SnapshotState.DELETED,
                )
            )
            if gone.rowcount:
                await remove_forgotten(connection)
                return
            query = select(runtime_snapshots.c.state).where(runtime_snapshots.c.id == snapshot_id)
            state = await connection.scalar(query)
            if state is not None:
                raise IllegalTransition(
                    f"the runtime snapshot {snapshot_id} is {state}, not deleted",
                    resolution="delete it first",
                )

    async def _count(self, snapshot_id: UUID, **values: Any) -> RuntimeSnapshot:
        async with self._database.write() as connection:
            return await _change(connection, snapshot_id, **values)

    async def _many(self, query: Select[Any]) -> tuple[RuntimeSnapshot, ...]:
        ordered = query.order_by(*_NEWEST_FIRST)
        async with self._database.read() as connection:
            return ROWS.all(await connection.execute(ordered))


async def _number(connection: AsyncConnection, snapshot: RuntimeSnapshot) -> int:
    """The next version's number of its image and shape, whose row is locked; 0: it is none."""
    image_id = snapshot.runtime_image_id
    known = images.c.id == image_id, images.c.deleted_at.is_(None)
    query = select(images.c.versions).where(*known).with_for_update(key_share=True)
    row = (await connection.execute(query)).first()
    if row is None:
        raise unknown_image(image_id)
    if not snapshot.is_version:
        return 0
    key = f"{snapshot.shape.vcpus}x{snapshot.shape.memory_mib}"
    number = snapshot.version or row.versions.get(key, 0) + 1
    versions = {**row.versions, key: max(number, row.versions.get(key, 0))}
    await connection.execute(update(images).where(*known).values(versions=versions))
    return number


async def _inherited(connection: AsyncConnection, snapshot: RuntimeSnapshot) -> dict[str, Any]:
    """Weight and pin of the one that it replaces; that row is locked, so none changes meanwhile."""
    known = runtime_snapshots.c
    query = select(known.weight, known.pinned).where(known.id == snapshot.replaces)
    row = (await connection.execute(query.with_for_update(read=True))).first()
    return {} if row is None else dict(row._mapping)


async def _get(connection: AsyncConnection, snapshot_id: UUID) -> RuntimeSnapshot:
    query = select(*ROWS.columns).where(runtime_snapshots.c.id == snapshot_id)
    row = (await connection.execute(query)).first()
    if row is None:
        raise unknown_snapshot(snapshot_id)
    return ROWS.one(row)


async def _change(connection: AsyncConnection, snapshot_id: UUID, **values: Any) -> RuntimeSnapshot:
    statement = (
        update(runtime_snapshots)
        .where(runtime_snapshots.c.id == snapshot_id)
        .values(**values, updated_at=now())
        .returning(*ROWS.columns)
    )
    row = (await connection.execute(statement)).first()
    if row is None:
        raise unknown_snapshot(snapshot_id)
    return ROWS.one(row)


async def _move(
    connection: AsyncConnection, snapshot_id: UUID, new: SnapshotState, changes: Mapping[str, Any]
) -> RuntimeSnapshot:
    row = await _CHANGES.move(connection, snapshot_id, new, with_shape(changes))
    if row is None:
        raise unknown_snapshot(snapshot_id)
    return ROWS.one(row)

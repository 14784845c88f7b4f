"""Repository of registered runtime images.

An image can be deleted when no live snapshot and no container refers to it. Deleted snapshots
whose files still wait to be collected do not hold it back: it then vanishes from sight, gives its
name and digest free, and its row goes with the last of those snapshots.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import and_, bindparam, delete, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import ColumnElement

from warmboot.model.errors import Conflict, InUse, NameTaken, NotFound
from warmboot.model.runtime_image import RuntimeImage, RuntimeImageManifest
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.store.clock import now
from warmboot.store.database import Database
from warmboot.store.lenient import Rows
from warmboot.store.storable import is_storable
from warmboot.store.tables import containers, engines, images, runtime_snapshots

_HIDDEN = ("deleted_at", "versions")
_FIELDS = [column.name for column in images.c if column.name not in _HIDDEN]
ROWS = Rows(images, lambda values: RuntimeImage(**values), omit=_HIDDEN)
_VISIBLE = images.c.deleted_at.is_(None)
_BY_ID = select(*ROWS.columns).where(images.c.id == bindparam("id"), _VISIBLE)


def unknown_image(image_id: UUID) -> NotFound:
    return NotFound(
        f"there is no runtime image {image_id}",
        resolution="see `warmboot runtime ls`",
    )


class RuntimeImageRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, image: RuntimeImage) -> None:
        """``NameTaken``, or ``Conflict`` if the same files are registered already."""
        insert = self._database.insert(images).values(
            {name: getattr(image, name) for name in _FIELDS}
        )
        async with self._database.write() as connection:
            added = await connection.execute(insert.on_conflict_do_nothing().returning(images.c.id))
            if added.first() is None:
                same_name = await self._one(images.c.name == image.name, connection)
                if same_name is not None:
                    raise NameTaken(
                        f"there is a runtime image named {image.name!r} already",
                        resolution="choose another name, or delete that one",
                    )
                raise Conflict("this runtime image is already registered", details=image.digest)

    async def get(self, image_id: UUID) -> RuntimeImage:
        """The image, or ``NotFound``."""
        async with self._database.read() as connection:
            row = (await connection.execute(_BY_ID, {"id": image_id})).first()
        if row is None:
            raise unknown_image(image_id)
        return ROWS.one(row)

    async def by_digest(self, digest: str) -> RuntimeImage | None:
        return await self._one(images.c.digest == digest) if is_storable(digest) else None

    async def by_name(self, name: str) -> RuntimeImage | None:
        return await self._one(images.c.name == name) if is_storable(name) else None

    async def list(self) -> tuple[RuntimeImage, ...]:
        """All, oldest first."""
        query = select(*ROWS.columns).where(_VISIBLE).order_by(images.c.created_at, images.c.id)
        async with self._database.read() as connection:
            return ROWS.all(await connection.execute(query))

    async def renew(
        self, image_id: UUID, was: str, digest: str, path: Path, manifest: RuntimeImageManifest
    ) -> RuntimeImage:
        """The image has other files now, if it still has those of the digest ``was``.

        ``Conflict`` if it has not, or if another image has the new ones. ``NotFound``.
        """
        taken = Conflict(
            f"the runtime image {image_id} cannot get new files",
            details=f"another one has them: {digest}",
            resolution="remove one of the two (`warmboot runtime rm`)",
        )
        statement = (
            update(images)
            .where(images.c.id == image_id, images.c.digest == was, _VISIBLE)
            .values(digest=digest, path=path, manifest=manifest, damage=None)
            .returning(*ROWS.columns)
        )
        async with self._database.write(taken) as connection:
            row = (await connection.execute(statement)).first()
        if row is not None:
            return ROWS.one(row)
        await self.get(image_id)
        raise Conflict(
            f"the runtime image {image_id} was changed at the same time",
            resolution="check its state and try again",
        )

    async def rename(self, image_id: UUID, name: str) -> None:
        """``NameTaken`` if another image has it; ``NotFound``."""
        taken = NameTaken(
            f"there is a runtime image named {name!r} already",
            resolution="choose another name, or delete that one",
        )
        statement = (
            update(images)
            .where(images.c.id == image_id, _VISIBLE)
            .values(name=name)
            .returning(images.c.id)
        )
        async with self._database.write(taken) as connection:
            if (await connection.execute(statement)).first() is None:
                raise unknown_image(image_id)

    async def set_damage(self, image_id: UUID, damage: Mapping[str, Any] | None) -> bool:
        """Note that its files are damaged, or (``None``) whole again; whether that is news."""
        was = images.c.damage.is_(None) if damage is not None else images.c.damage.is_not(None)
        statement = (
            update(images)
            .where(images.c.id == image_id, was, _VISIBLE)
            .values(damage=damage)
            .returning(images.c.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).first() is not None

    async def delete(self, image_id: UUID) -> None:
        """``InUse`` while a live snapshot, a container or an engine refers to it; ``NotFound``."""
        async with self._database.write() as connection:
            found = await connection.execute(
                select(images.c.id).where(images.c.id == image_id, _VISIBLE).with_for_update()
            )
            if found.first() is None:
                raise unknown_image(image_id)
            if await connection.scalar(select(_is_used(image_id))):
                raise InUse(
                    f"the runtime image {image_id} is in use",
                    details="runtime snapshots, containers or engines were made from it",
                    resolution="delete those first",
                )
            await connection.execute(
                update(images).where(images.c.id == image_id).values(deleted_at=now())
            )
            await remove_forgotten(connection)

    async def _one(
        self, condition: ColumnElement[bool], connection: AsyncConnection | None = None
    ) -> RuntimeImage | None:
        query = select(*ROWS.columns).where(condition, _VISIBLE)
        if connection is not None:
            row = (await connection.execute(query)).first()
        else:
            async with self._database.read() as reader:
                row = (await reader.execute(query)).first()
        return None if row is None else ROWS.one(row)


def _is_used(image_id: UUID) -> ColumnElement[bool]:
    return or_(
        exists().where(
            and_(
                runtime_snapshots.c.runtime_image_id == image_id,
                runtime_snapshots.c.state != SnapshotState.DELETED,
            )
        ),
        exists().where(containers.c.runtime_image_id == image_id),
        exists().where(engines.c.runtime_image_id == image_id),
    )


async def remove_forgotten(connection: AsyncConnection) -> None:
    """Remove the rows of deleted images to which nothing refers any more."""
    await connection.execute(
        delete(images).where(
            images.c.deleted_at.is_not(None),
            ~exists().where(runtime_snapshots.c.runtime_image_id == images.c.id),
            ~exists().where(containers.c.runtime_image_id == images.c.id),
            ~exists().where(engines.c.runtime_image_id == images.c.id),
        )
    )

"""Repository of a few facts about this installation, by name."""

from __future__ import annotations

from sqlalchemy import select

from warmboot.store.database import Database
from warmboot.store.tables import meta


class MetaRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: str) -> str | None:
        async with self._database.read() as connection:
            value: str | None = await connection.scalar(
                select(meta.c.value).where(meta.c.key == key)
            )
            return value

    async def set(self, key: str, value: str) -> None:
        insert = self._database.insert(meta).values(key=key, value=value)
        statement = insert.on_conflict_do_update(
            index_elements=[meta.c.key], set_={"value": insert.excluded.value}
        )
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def set_default(self, key: str, value: str) -> str:
        """Set it unless it is set; what it is then."""
        insert = self._database.insert(meta).values(key=key, value=value)
        async with self._database.write() as connection:
            await connection.execute(insert.on_conflict_do_nothing())
            found: str = (
                await connection.execute(select(meta.c.value).where(meta.c.key == key))
            ).scalar_one()
            return found

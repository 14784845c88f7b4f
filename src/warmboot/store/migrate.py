"""Migrates a database to the schema of this version.

The migrations lie in ``migrations/versions``, each file beginning with ``m`` and its revision:
``m0001_first_tables.py`` is revision ``0001``. Revisions are numbered, one after the other, so that
the newest is known without loading Alembic; a database that is up to date is opened without it.

A migration is one transaction on both databases: it happens as a whole or not at all. Two programs
that start at the same time take turns.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, func, inspect, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from warmboot.model.errors import Unavailable
from warmboot.store.database import sqlite_engine
from warmboot.store.failures import newer_than_us, translated

MIGRATIONS = Path(__file__).parent / "migrations"
_TURN = 0x6D696772  # "migr": the key of the advisory lock


def revisions() -> list[str]:
    """All revisions of this version, oldest first."""
    return sorted(path.stem[1:5] for path in (MIGRATIONS / "versions").glob("m[0-9]*.py"))


async def migrate(url: URL, target: str = "head") -> None:
    """Bring the database at ``url`` to ``target``: ``head``, a revision, or ``base`` (empty).

    ``NotSupported`` if it was made by a newer version; ``Unavailable`` if it cannot be opened.
    """
    engine = _engine(url)
    try:
        async with engine.begin() as connection:
            await _migrate(connection, target)
    except SQLAlchemyError as exc:
        raise translated(exc) from exc
    finally:
        await engine.dispose()


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        # Tables are rebuilt by copying them: with foreign keys on, dropping the old one would
        # take the rows that refer to it along. They are checked at the end instead.
        return sqlite_engine(url, writer=True, pool_size=1, foreign_keys=False)
    return create_async_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 10})


async def _migrate(connection: AsyncConnection, target: str) -> None:
    known = revisions()
    wanted = known[-1] if target == "head" else target
    postgres = connection.dialect.name == "postgresql"
    if await _revision(connection) == wanted:
        return
    if postgres:
        await connection.execute(select(func.pg_advisory_xact_lock(_TURN)))
    found = await _revision(connection)
    if found == wanted:
        return
    if found is not None and found not in known:
        raise newer_than_us(found, known[-1])
    await connection.run_sync(_run, wanted, found is None or (wanted != "base" and found < wanted))
    if not postgres:
        broken = (await connection.execute(text("PRAGMA foreign_key_check"))).all()
        if broken:
            raise Unavailable(
                "the database could not be migrated",
                details=f"{len(broken)} rows would refer to rows that do not exist",
                resolution="restore a backup; nothing was changed",
            )


async def _revision(connection: AsyncConnection) -> str | None:
    """The database's revision, ``None`` for an empty one."""
    tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    if "alembic_version" in tables:
        found: str | None = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        return found
    if tables:
        raise Unavailable(
            "the database does not belong to warmboot",
            details=f"it has tables of its own: {', '.join(sorted(tables)[:5])}",
            resolution="point the URL at an empty database",
        )
    return None


def _run(connection: Connection, target: str, upwards: bool) -> None:
    # Loaded here, because it is big and seldom needed.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    move = command.upgrade if upwards else command.downgrade
    move(config, target)

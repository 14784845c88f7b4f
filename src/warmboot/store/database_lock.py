"""One manager at a time uses a database on a server, whatever machine it runs on.

A connection of its own holds an advisory lock; the server frees it with the connection, and so with
a manager that is killed. What its file is for an SQLite database is held by ``host.manager_lock``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from warmboot.model.errors import Conflict
from warmboot.store.address import parse_url
from warmboot.store.failures import translated

_KEY = 0x736F6C65  # "sole"
_CONNECT_TIMEOUT_S = 10
_NAME_LIMIT = 63

_HOLDER = text(
    "SELECT a.application_name, coalesce(host(a.client_addr), 'this machine') AS at,"
    " a.backend_start, a.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
    " WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = :key"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@asynccontextmanager
async def lock_database(url: str, who: str) -> AsyncIterator[None]:
    """Hold the database at ``url`` as ``who``; ``Conflict``, at once, if another manager does.

    ``Unavailable`` if it cannot be asked.
    """
    address = parse_url(url)
    if address.get_backend_name() != "postgresql":
        yield
        return
    connection = await _connected(address, who)
    try:
        yield
    finally:
        await connection.close()


async def _connected(address: URL, who: str) -> AsyncConnection:
    engine = create_async_engine(
        address,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "application_name": f"warmboot {who}"[:_NAME_LIMIT],
        },
    )
    try:
        connection = await engine.connect()
    except SQLAlchemyError as error:
        raise translated(error) from error
    try:
        if not await connection.scalar(select(func.pg_try_advisory_lock(_KEY))):
            raise await _refusal(connection, address.database or "")
    except SQLAlchemyError as error:
        await connection.close()
        raise translated(error) from error
    except BaseException:  # cancelled, too; raised again
        await connection.close()
        raise
    return connection


async def _refusal(connection: AsyncConnection, database: str) -> Conflict:
    holder = (await connection.execute(_HOLDER, {"key": _KEY})).first()
    details = "it has ended meanwhile: try again"
    if holder is not None:
        since = holder.backend_start.isoformat(timespec="seconds")
        details = f"{holder.application_name} at {holder.at}, since {since}"
    return Conflict(
        f"another manager uses the database {database}",
        details=details,
        resolution="stop it, or give this one a database of its own (MANAGER_DATABASE_URL)",
    )

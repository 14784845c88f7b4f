"""Connections and transactions.

Every repository call is one short transaction of its own, unless it happens inside
``transaction()``, which it then joins::

    async with store.transaction():
        container = await store.containers.set_state(...)
        await store.events.append("container.running", str(container.id), {...})

Writers take turns. On SQLite there is one writing connection in the process, and ``BEGIN
IMMEDIATE`` keeps order between processes, so that nobody ever sees "database is locked". On
PostgreSQL single calls run side by side, guarded by row locks, while transactions of several calls
take turns by an advisory lock: they cannot deadlock one another, and events get their ids in the
order in which they become visible. Readers never wait for writers.

Who finds no connection free queues, in the order of arrival and without a limit of time: a burst is
worked off, and whoever asked gives up when he likes. Only one of a process's transactions waits for
the advisory lock; the others hold no connection meanwhile::

    transaction ─▶ turn ─┐
    write ───────────────┴▶ one of the writing connections ─▶ BEGIN … COMMIT
    read ─────────────────▶ one of the reading connections
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from warmboot.model.errors import WarmbootError
from warmboot.store.failures import translated
from warmboot.store.sqlite import OneTripConnection, connect_with
from warmboot.store.types import JSON_AS_TEXT

_READERS = {"sqlite": 3, "postgresql": 8}
_WRITERS = {"sqlite": 1, "postgresql": 8}
_CONNECT_TIMEOUT_S = 10
_TAKE_TURN = select(func.pg_advisory_xact_lock(0x7761726D))
"""The lock's key is "warm"."""


@dataclass(slots=True)
class _Transaction:
    database: Database
    connection: AsyncConnection
    task: asyncio.Task[Any] | None
    open: bool = True
    failure: WarmbootError | None = None


_current: ContextVar[_Transaction | None] = ContextVar("warmboot_transaction", default=None)


class Database:
    """The engines of one database."""

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine) -> None:
        self._writer = writer
        self._reader = reader
        name = writer.dialect.name
        self._is_postgres = name == "postgresql"
        url = writer.url
        self.shell = f"psql {url.database}" if self._is_postgres else f"sqlite3 {url.database}"
        # asyncio's are first come, first served; the pools' own queues are not, and have a limit.
        self._writing = asyncio.Semaphore(_WRITERS[name])
        self._reading = asyncio.Semaphore(_READERS[name])
        self._turn = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: URL) -> AsyncIterator[Database]:
        """Engines for ``url``, disposed of at the end. Connects when first used."""
        if url.get_backend_name() == "postgresql":
            writer = create_async_engine(
                url,
                pool_size=_READERS["postgresql"] + _WRITERS["postgresql"],
                max_overflow=0,
                pool_pre_ping=True,
                connect_args={"connect_timeout": _CONNECT_TIMEOUT_S},
                **JSON_AS_TEXT,
            )
            engines = (writer, writer.execution_options(isolation_level="AUTOCOMMIT"))
        else:
            writer = sqlite_engine(url, writer=True, pool_size=_WRITERS["sqlite"], **JSON_AS_TEXT)
            reader = sqlite_engine(url, writer=False, pool_size=_READERS["sqlite"], **JSON_AS_TEXT)
            engines = (writer, reader)
        try:
            yield cls(*engines)
        finally:
            for engine in reversed(engines):
                await engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with; inside a transaction, that one's."""
        joined = self._joined()
        if joined is not None:
            with _translating(joined):
                yield joined.connection
            return
        with _translating():
            async with self._reading, self._reader.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(
        self,
        refusal: WarmbootError | None = None,
        *,
        alone: bool = False,
        in_turn: bool = False,
    ) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction. A violated constraint raises ``refusal``, if given.

        ``alone``: one statement does all of the writing; it may be committed as it is executed.
        ``in_turn``: it takes turns with transactions of several calls.
        """
        joined = self._joined()
        if joined is not None:
            with _translating(joined, refusal):
                yield joined.connection
            return
        with _translating(None, refusal):
            async with self._begun(in_turn) as connection:
                if alone and not self._is_postgres:
                    (await _driver(connection)).alone = True
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Make the calls of this task inside the block one transaction. An inner one joins it.

        It belongs to the task that opened it: a call from a task that was started inside
        (``gather``, ``wait_for``) is a ``RuntimeError``. Where a call failed in the database, the
        whole is undone and that error raised, even if it was caught in between.
        """
        if self._joined() is not None:
            yield
            return
        with _translating():
            async with self._begun(True) as connection:
                here = _Transaction(self, connection, asyncio.current_task())
                token = _current.set(here)
                try:
                    yield
                finally:
                    here.open = False
                    _current.reset(token)
                if here.failure is not None:
                    raise here.failure

    @asynccontextmanager
    async def _begun(self, in_turn: bool) -> AsyncIterator[AsyncConnection]:
        """A transaction of one's own, at whose end it is committed or undone."""
        if not (in_turn and self._is_postgres):
            async with self._writing, self._writer.begin() as connection:
                yield connection
            return
        async with self._turn, self._writing, self._writer.begin() as connection:
            await connection.execute(_TAKE_TURN)
            yield connection

    def _joined(self) -> _Transaction | None:
        here = _current.get()
        if here is None or not here.open or here.database is not self:
            return None
        if here.task is not asyncio.current_task():
            raise RuntimeError("a transaction is used by another task than the one that opened it")
        return here

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT that knows ``on_conflict_do_nothing``."""
        return postgresql.insert(table) if self._is_postgres else sqlite.insert(table)


async def _driver(connection: AsyncConnection) -> OneTripConnection:
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, OneTripConnection)
    return driver


@contextmanager
def _translating(
    joined: _Transaction | None = None, refusal: WarmbootError | None = None
) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as exc:
        broken = isinstance(exc, IntegrityError)
        error = refusal if refusal is not None and broken else translated(exc)
        if joined is not None:
            # PostgreSQL would silently roll back at the end, SQLite would keep the rest.
            joined.failure = error
        raise error from exc


def sqlite_engine(
    url: URL, *, writer: bool, pool_size: int, foreign_keys: bool = True, **more: Any
) -> AsyncEngine:
    creator = connect_with(url.database or "", writer=writer, foreign_keys=foreign_keys)
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        connect_args={"async_creator_fn": creator},
        **more,
    )

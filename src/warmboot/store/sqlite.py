"""SQLite connections that make one trip to their thread per statement.

aiosqlite runs each connection in a thread of its own, and every call is a trip there and back
(some 90 µs): making a cursor, executing, fetching, closing the cursor. A short transaction costs
eight of them, which is more than SQLite itself needs. Here a statement with its rows is one trip,
the ``BEGIN`` rides along with the first statement, and closing costs nothing: two trips to write,
one to read. Where a statement is said to be a whole transaction (``alone``), its ``COMMIT`` rides
along, too: one trip.

A writer begins with ``BEGIN IMMEDIATE``, so that it waits for its turn (``busy_timeout``) instead
of failing in the middle when a reader wants to become a writer.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiosqlite

BUSY_TIMEOUT_MS = 5_000
_LOOK_AGAIN_S = 0.005

_Rows = list[tuple[Any, ...]]


class OneTripCursor:
    """What SQLAlchemy uses of a cursor. Rows are there once ``execute`` has returned."""

    __slots__ = ("_connection", "_rows", "arraysize", "description", "lastrowid", "rowcount")

    def __init__(self, connection: OneTripConnection) -> None:
        self._connection = connection
        self._rows: _Rows = []
        self.arraysize = 1
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> OneTripCursor:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> OneTripCursor:
        def run(cursor: sqlite3.Cursor) -> sqlite3.Cursor:
            return cursor.execute(sql, parameters)

        await self._take(run)
        return self

    async def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> OneTripCursor:
        def run(cursor: sqlite3.Cursor) -> sqlite3.Cursor:
            return cursor.executemany(sql, parameters)

        await self._take(run)
        return self

    async def _take(self, run: Callable[[sqlite3.Cursor], sqlite3.Cursor]) -> None:
        outcome = await self._connection.trip(run)
        self.description, self.rowcount, self.lastrowid, self._rows = outcome

    async def fetchall(self) -> _Rows:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        self._rows = []


class OneTripConnection(aiosqlite.Connection):
    """An aiosqlite connection with ``OneTripCursor``s; a ``writer`` begins transactions itself."""

    def __init__(self, connector: Callable[[], sqlite3.Connection], *, writer: bool) -> None:
        super().__init__(connector, 64)
        self._writer = writer
        # Set before a trip, not after: a cancelled trip goes on in the thread.
        self._maybe_begun = False
        self.alone = False
        """The next statement is a transaction of its own."""

    def cursor(self) -> Any:
        return OneTripCursor(self)

    async def trip(self, run: Callable[[sqlite3.Cursor], sqlite3.Cursor]) -> Any:
        self._maybe_begun = self._writer
        alone, self.alone = self.alone, False
        outcome = await self._execute(self._travel, run, alone)  # type: ignore[no-untyped-call]
        self._maybe_begun = self._writer and not alone
        return outcome

    def _travel(
        self, run: Callable[[sqlite3.Cursor], sqlite3.Cursor], alone: bool
    ) -> tuple[Any, int, int | None, _Rows]:
        connection = self._conn
        if self._writer and not connection.in_transaction:
            connection.execute("BEGIN IMMEDIATE")
        cursor = run(connection.cursor())
        rows = cursor.fetchall() if cursor.description else []
        if alone:
            connection.commit()
        return cursor.description, cursor.rowcount, cursor.lastrowid, rows

    async def commit(self) -> None:
        if self._maybe_begun:
            await super().commit()
            self._maybe_begun = False

    async def rollback(self) -> None:
        self.alone = False  # the call ended before its statement
        if self._maybe_begun:
            await super().rollback()
            self._maybe_begun = False


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """WAL. SQLite refuses at once, for all its timeout, while another one changes a new file."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_AGAIN_S)
        else:
            return


def connect_with(path: str, *, writer: bool, foreign_keys: bool = True) -> Callable[..., Any]:
    """SQLAlchemy's ``async_creator_fn`` for the database file ``path``.

    WAL lets readers go on while one writes; with it, ``synchronous=NORMAL`` survives a killed
    process, and a power cut costs the last transactions at worst, never the database.
    """

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            path,
            timeout=BUSY_TIMEOUT_MS / 1000,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            _keep_a_log(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
            if not writer:
                connection.execute("PRAGMA query_only=ON")
        except BaseException:  # whatever it is; raised again
            connection.close()
            raise
        return connection

    def create(*_: Any, **__: Any) -> Awaitable[aiosqlite.Connection]:
        return OneTripConnection(connect, writer=writer)

    return create

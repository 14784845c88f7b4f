"""Translates errors of the database libraries into warmboot's errors.

Whatever is no full disk and no violated constraint means that the database cannot be used right
now: ``Unavailable``, with the remedy that fits the cause.
"""

from __future__ import annotations

import sqlite3

import psycopg.errors
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from warmboot.model.errors import (
    Conflict,
    DiskFull,
    InvalidRequest,
    NotSupported,
    Unavailable,
    WarmbootError,
)

_FULL = (
    "no room is left for the database",
    "free some disk space (`warmboot gc`), then try again",
)
_SQLITE_REMEDIES = {
    sqlite3.SQLITE_CANTOPEN: "check that the folder exists and may be written to",
    sqlite3.SQLITE_READONLY: "make the database file and its folder writable",
    sqlite3.SQLITE_PERM: "make the database file and its folder writable",
    sqlite3.SQLITE_NOTADB: "point the URL at warmboot's own database, or at a new file",
    sqlite3.SQLITE_CORRUPT: "stop warmboot and restore the database from a backup",
    sqlite3.SQLITE_BUSY: "see that no other program keeps the database locked, then try again",
    sqlite3.SQLITE_LOCKED: "see that no other program keeps the database locked, then try again",
    sqlite3.SQLITE_IOERR: "check the disk, then try again",
}
_POSTGRES_REMEDY = "check that PostgreSQL runs, and the address, user and database in the URL"


def translated(error: SQLAlchemyError) -> WarmbootError:
    """What ``error`` means, in warmboot's words. Raise the result ``from`` it."""
    if isinstance(error, ArgumentError | NoSuchModuleError):
        return InvalidRequest(
            "the database URL cannot be understood",
            details=str(error),
            resolution="use sqlite:////path/to/file.db or postgresql://user@host/database",
        )
    if isinstance(error, PoolTimeout):
        return Unavailable(
            "the database is too busy",
            details="no connection became free in time",
            resolution="try again",
        )
    cause = error.orig if isinstance(error, StatementError) else None
    if isinstance(cause, WarmbootError):
        return cause
    if isinstance(cause, sqlite3.Error):
        return _from_sqlite(cause)
    if isinstance(cause, psycopg.Error):
        return _from_postgres(cause)
    details = str(cause or error)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Unavailable("the connection to the database was lost", details=details)
    return Unavailable("the database refused", details=details)


def _from_sqlite(cause: sqlite3.Error) -> WarmbootError:
    # Extended codes carry the plain one in their low byte.
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(_FULL[0], details=str(cause), resolution=_FULL[1])
    if code == sqlite3.SQLITE_CONSTRAINT:
        return Conflict("the database refused a change that contradicts others", details=str(cause))
    return Unavailable(
        "the database cannot be used",
        details=str(cause),
        resolution=_SQLITE_REMEDIES.get(code, "see the details"),
    )


def _from_postgres(cause: psycopg.Error) -> WarmbootError:
    details = str(cause).strip()
    if isinstance(cause, psycopg.errors.DiskFull):
        return DiskFull(_FULL[0], details=details, resolution=_FULL[1])
    if isinstance(cause, psycopg.IntegrityError):
        return Conflict("the database refused a change that contradicts others", details=details)
    if isinstance(cause, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure):
        return Unavailable("two changes conflicted", details=details, resolution="try again")
    if isinstance(cause, psycopg.errors.InsufficientPrivilege):
        return Unavailable(
            "warmboot lacks permissions in the database",
            details=details,
            resolution="grant its user all rights on the database and the schema",
        )
    return Unavailable("the database cannot be used", details=details, resolution=_POSTGRES_REMEDY)


def newer_than_us(found: str, known: str) -> NotSupported:
    return NotSupported(
        "the database was made by a newer warmboot",
        details=f"its schema is at {found}, this version knows up to {known}",
        resolution="install that version again, or restore a backup from before the upgrade",
    )

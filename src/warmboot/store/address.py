"""Database URLs: what a user writes, and what SQLAlchemy needs."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from warmboot.model.errors import InvalidRequest, Unavailable, WarmbootError
from warmboot.store.failures import translated

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
}


def parse_url(text: str) -> URL:
    """The URL with the drivers that the store uses; ``InvalidRequest`` for any other database."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as exc:
        raise _misunderstood("it is no URL") from exc
    backend = url.drivername.partition("+")[0]
    if backend not in _DRIVERS:
        raise _misunderstood(f"{url.drivername} is neither sqlite nor postgresql")
    if backend == "sqlite" and (url.database or ":memory:").startswith((":memory:", "file:")):
        raise InvalidRequest(
            "the database must be a file",
            details="the state of running VMs has to outlive the manager",
            resolution="use sqlite:////path/to/file.db",
        )
    return url.set(drivername=_DRIVERS[backend])


def database_file(text: str) -> Path | None:
    """The file of an SQLite database; ``None`` for a database on a server. ``InvalidRequest``."""
    url = parse_url(text)
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def prepare_file(url: URL) -> None:
    """Make the SQLite file, readable for its owner alone: it holds the tokens of running VMs.

    SQLite gives its side files the same rights.
    """
    path = Path(url.database or "")
    try:
        path.touch(mode=0o600, exist_ok=True)
    except OSError as exc:
        raise Unavailable(
            f"the database {path} cannot be opened",
            details=exc.strerror or str(exc),
            resolution="check that the folder exists and may be written to",
        ) from exc


def _misunderstood(details: str) -> WarmbootError:
    # The text itself may hold a password: it is not repeated.
    return translated(ArgumentError(details))

"""Databases of this version's schema, made once and copied.

Migrating one takes a dozen times as long as copying it. That a new database is migrated is what
``tests/store/test_store_schema.py`` shows, and every test with a manager in a process of its own.

Statements are compiled once in a process, and not for each database: a quarter of what a manager
that is started for a test costs. For that SQLite's engines have one dialect, the key of what is
compiled.
"""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, Dialect
from sqlalchemy.ext.asyncio import AsyncEngine

from warmboot.store import Store, database

_compiled: list[tuple[Dialect, Any]] = []
_sqlite_engine = database.sqlite_engine


def _sharing_engine(url: URL, **options: Any) -> AsyncEngine:
    made = _sqlite_engine(url, **options)
    engine = made.sync_engine
    # A dialect learns of its database when its own engine connects for the first time.
    if not _compiled or not getattr(_compiled[0][0], "server_version_info", None):
        _compiled[:] = [(engine.dialect, engine._compiled_cache)]
    engine.dialect, engine._compiled_cache = _compiled[0]
    return made


database.sqlite_engine = _sharing_engine


def migrated(path: Path) -> Path:
    """Put an SQLite database without rows at ``path``, unless there is one."""
    if not path.exists():
        shutil.copy(_template(), path)  # with its mode
    return path


@asynccontextmanager
async def new_store(folder: Path) -> AsyncIterator[Store]:
    """A store over a new database in ``folder``."""
    async with Store.open(f"sqlite:///{migrated(folder / 'warmboot.db')}") as store:
        yield store


def migrate(url: str) -> None:
    """Bring an empty database to this version's schema."""

    async def open_once() -> None:
        async with Store.open(url):
            pass

    with ThreadPoolExecutor(1) as beside_the_loop:
        beside_the_loop.submit(asyncio.run, open_once()).result()


@cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="wb-database-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    migrate(f"sqlite:///{folder / 'warmboot.db'}")
    return folder / "warmboot.db"

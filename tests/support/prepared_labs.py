"""Storages in which a runtime image is registered and a snapshot ready, built once and copied.

    await prepare(place, snapshot=True)      before the first manager on it

To build a snapshot starts two VMs and takes four times as long as to copy it. How it is built is
shown by the tests of building.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tests.support.managers import Lab

from warmboot.model.runtime_snapshot import RuntimeSnapshot

T = TypeVar("T")

_made: dict[Hashable, tuple[Lab, Any]] = {}

_PATHS = {"images": "path", "runtime_snapshots": "snapshot_path"}
"""The columns of the database in which there are paths."""


async def prepare(place: Lab, *, snapshot: bool = False) -> list[RuntimeSnapshot]:
    """Register the default image, and have a snapshot of it ready if ``snapshot``; which one."""

    async def build(template: Lab) -> list[RuntimeSnapshot]:
        async with template.manager() as manager:
            await manager.image()
            return [await manager.snapshot()] if snapshot else []

    template, snapshots = await copied(place, snapshot, build)
    return [moved(one, template, place) for one in snapshots]


async def copied(place: Lab, name: Hashable, build: Callable[[Lab], Awaitable[T]]) -> tuple[Lab, T]:
    """Give ``place`` the storage that ``build`` makes, which is done once for each ``name``; where
    it was made, and what that returned."""
    if name not in _made:
        root = Path(tempfile.mkdtemp(prefix="wb-lab-", dir="/tmp"))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
        template = Lab(root)
        _made[name] = template, await build(template)
    template, made = _made[name]
    _copy(template.storage, place.storage)
    database = sqlite3.connect(place.storage / "warmboot.db")
    with database:
        for table, column in _PATHS.items():
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (f"{template.storage}/", f"{place.storage}/"),
            )
    database.close()
    return template, made


def moved(snapshot: RuntimeSnapshot, template: Lab, place: Lab) -> RuntimeSnapshot:
    path = place.storage / snapshot.snapshot_path.relative_to(template.storage)
    return replace(snapshot, snapshot_path=path)


def _copy(storage: Path, to: Path) -> None:
    """What a manager at rest has there, its hard links included."""
    copies: dict[int, str] = {}

    def copy(source: str, target: str) -> None:
        inode = Path(source).stat().st_ino
        if inode in copies:
            os.link(copies[inode], target)
        else:
            shutil.copy2(source, target)
            copies[inode] = target

    shutil.copytree(storage, to, ignore=shutil.ignore_patterns("*.lock"), copy_function=copy)

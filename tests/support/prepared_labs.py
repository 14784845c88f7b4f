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
from dataclasses import replace
from pathlib import Path

from tests.support.managers import Lab

from warmboot.model.runtime_snapshot import RuntimeSnapshot

_made: dict[bool, tuple[Lab, list[RuntimeSnapshot]]] = {}

_PATHS = {"images": "path", "runtime_snapshots": "snapshot_path"}
"""The columns of the database in which there are paths."""


async def prepare(place: Lab, *, snapshot: bool = False) -> list[RuntimeSnapshot]:
    """Register the default image, and have a snapshot of it ready if ``snapshot``; which one."""
    if snapshot not in _made:
        _made[snapshot] = await _build(snapshot)
    template, snapshots = _made[snapshot]
    _copy(template.storage, place.storage)
    database = sqlite3.connect(place.storage / "warmboot.db")
    with database:
        for table, column in _PATHS.items():
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (f"{template.storage}/", f"{place.storage}/"),
            )
    database.close()
    return [
        replace(one, snapshot_path=place.storage / one.snapshot_path.relative_to(template.storage))
        for one in snapshots
    ]


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


async def _build(snapshot: bool) -> tuple[Lab, list[RuntimeSnapshot]]:
    root = Path(tempfile.mkdtemp(prefix="wb-lab-", dir="/tmp"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    template = Lab(root)
    async with template.manager() as manager:
        await manager.image()
        return template, [await manager.snapshot()] if snapshot else []

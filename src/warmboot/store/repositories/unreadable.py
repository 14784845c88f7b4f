"""Finds the rows of the whole database that cannot be read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import select

from warmboot.store.database import Database
from warmboot.store.lenient import Rows, UnreadableRow
from warmboot.store.repositories import events, idempotency, images, operations, snapshots, vms
from warmboot.store.repositories.named import checkpoints, containers, engines, workers
from warmboot.store.tables import leases, meta, metadata

_READERS: dict[str, Rows[Any]] = {
    rows.table.name: rows
    for rows in (
        images.ROWS,
        snapshots.ROWS,
        Rows(leases, lambda values: values),
        containers.ROWS,
        engines.ROWS,
        vms.ROWS,
        workers.ROWS,
        checkpoints.ROWS,
        operations.ROWS,
        operations.STEPS,
        events.ROWS,
        idempotency.ROWS,
        Rows(meta, lambda values: values),
    )
}
assert _READERS.keys() == metadata.tables.keys()


class UnreadableRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, tables: Collection[str] = tuple(_READERS)) -> tuple[UnreadableRow, ...]:
        """The rows of ``tables`` that cannot be read at the moment."""
        found: list[UnreadableRow] = []
        for name in tables:
            rows = _READERS[name]
            async with self._database.read() as connection:
                found += rows.apart(await connection.execute(select(*rows.all_columns)))[1]
        return tuple(found)

    @property
    def shell(self) -> str:
        """How a person comes to the database."""
        return self._database.shell

"""Repository of lists that are read part by part.

A part begins after the keys of the last row of the one before; no rows are counted off.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, literal, select, tuple_

from warmboot.model.checkpoint import Checkpoint, CheckpointState
from warmboot.model.container import Container, ContainerState
from warmboot.model.conventions.pages import Page, PageRequest, Position
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.tenants.engine import Engine, EngineState
from warmboot.model.worker import Worker, WorkerState
from warmboot.store.database import Database
from warmboot.store.lenient import Rows
from warmboot.store.repositories import images, snapshots
from warmboot.store.repositories.named import checkpoints, containers, engines, workers

T = TypeVar("T")

READ_AHEAD = 100
"""Rows of a query, if fewer are wanted: ``keep`` may want few of them."""


def _any(_: object) -> bool:
    return True


class PageRepository:
    """Each list's things in ``states`` (``None``: any) that ``keep`` wants, newest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def containers(
        self,
        wanted: PageRequest,
        states: Collection[ContainerState] | None = None,
        keep: Callable[[Container], bool] = _any,
    ) -> Page[Container]:
        query = _in_states(containers.ROWS, states)
        return await _read(self._database, containers.ROWS, query, wanted, keep=keep)

    async def engines(
        self,
        wanted: PageRequest,
        states: Collection[EngineState] | None = None,
        keep: Callable[[Engine], bool] = _any,
    ) -> Page[Engine]:
        query = _in_states(engines.ROWS, states)
        return await _read(self._database, engines.ROWS, query, wanted, keep=keep)

    async def workers(
        self,
        wanted: PageRequest,
        states: Collection[WorkerState] | None = None,
        keep: Callable[[Worker], bool] = _any,
    ) -> Page[Worker]:
        query = _in_states(workers.ROWS, states)
        return await _read(self._database, workers.ROWS, query, wanted, keep=keep)

    async def images(
        self, wanted: PageRequest, keep: Callable[[RuntimeImage], bool] = _any
    ) -> Page[RuntimeImage]:
        """Oldest first."""
        rows = images.ROWS
        query = select(*rows.columns).where(rows.table.c.deleted_at.is_(None))
        return await _read(self._database, rows, query, wanted, newest_first=False, keep=keep)

    async def snapshots(
        self,
        wanted: PageRequest,
        states: Collection[SnapshotState] | None = None,
        image_id: UUID | None = None,
    ) -> Page[RuntimeSnapshot]:
        """A page of the snapshots of one runtime image, or of all."""
        query = _in_states(snapshots.ROWS, states)
        if image_id is not None:
            query = query.where(snapshots.ROWS.table.c.runtime_image_id == image_id)
        return await _read(self._database, snapshots.ROWS, query, wanted)

    async def checkpoints(
        self,
        worker_id: UUID,
        wanted: PageRequest,
        states: Collection[CheckpointState] | None = None,
    ) -> Page[Checkpoint]:
        """A page of the checkpoints of one worker."""
        of_worker = checkpoints.ROWS.table.c.worker_id == worker_id
        query = _in_states(checkpoints.ROWS, states).where(of_worker)
        return await _read(self._database, checkpoints.ROWS, query, wanted)


def _in_states(rows: Rows[Any], states: Collection[str] | None) -> Select[Any]:
    query = select(*rows.columns)
    return query if states is None else query.where(rows.table.c.state.in_(sorted(states)))


async def _read(
    database: Database,
    rows: Rows[T],
    query: Select[Any],
    wanted: PageRequest,
    *,
    newest_first: bool = True,
    keep: Callable[[T], bool] = _any,
) -> Page[T]:
    """Those of ``query`` that can be read and that ``keep`` wants, in the order of creation."""
    keys = rows.table.c.created_at, rows.table.c.id
    query = query.order_by(*(key.desc() if newest_first else key for key in keys))
    if wanted.name_part:  # SQLite takes capitals for small letters, so ``keep`` looks again
        query = query.where(rows.table.c.name.contains(wanted.name_part, autoescape=True))
    size = None if wanted.limit is None else max(wanted.limit + 1, READ_AHEAD)
    after, found, last = wanted.after, list[T](), wanted.after
    async with database.read() as connection:
        while True:
            following = query if after is None else query.where(_beyond(keys, after, newest_first))
            part = list(await connection.execute(following.limit(size)))
            known = after
            for row in part:
                position = _position(row)
                known = position or known
                for thing in rows.all((row,)):
                    if not keep(thing):
                        continue
                    if len(found) == wanted.limit:
                        return Page(tuple(found), last)
                    found.append(thing)
                    last = position
            if size is None or len(part) < size:
                return Page(tuple(found))
            if known == after:  # nothing here can be read, and the next part would begin here again
                size *= 2
            after = known


def _beyond(
    keys: tuple[ColumnElement[Any], ColumnElement[Any]], after: Position, newest_first: bool
) -> ColumnElement[bool]:
    place = tuple_(literal(after.created_at, keys[0].type), literal(after.id, keys[1].type))
    return tuple_(*keys) < place if newest_first else tuple_(*keys) > place


def _position(row: Row[Any]) -> Position | None:
    """``None`` for a row whose keys are damaged."""
    created_at, id_ = row.created_at, row.id
    if isinstance(created_at, datetime) and isinstance(id_, UUID):
        return Position(created_at, id_)
    return None

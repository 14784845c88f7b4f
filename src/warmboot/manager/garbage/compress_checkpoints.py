"""Compresses the memory of checkpoints that nobody has needed for long.

A checkpoint is cold when it was made, and unpacked last, so long ago. Nothing is journaled: each
file changes by one rename (``criu.runtime.compression``), so a kill at any point leaves one whole
form, and the next attempt tidies away the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from warmboot.criu.runtime.cold import ColdCheckpoints
from warmboot.criu.runtime.compression import plain_pages
from warmboot.manager.core.event_log import EventLog
from warmboot.model.checkpoint import Checkpoint, CheckpointState
from warmboot.model.errors import NotFound, RowUnreadable, WarmbootError
from warmboot.model.worker import WorkerState
from warmboot.store import Store
from warmboot.system.usage import allocated_below

log = structlog.get_logger(__name__)


class CompressCheckpoints:
    """``after`` so long without use; ``None``: never."""

    def __init__(
        self, store: Store, events: EventLog, cold: ColdCheckpoints, after: timedelta | None
    ) -> None:
        self._store = store
        self._events = events
        self._cold = cold
        self._after = after

    async def cold(self, now: datetime) -> Sequence[Checkpoint]:
        """Those that are to be compressed."""
        if self._after is None:
            return ()
        found: list[Checkpoint] = []
        for worker in await self._store.workers.list():
            try:
                rows = await self._store.checkpoints.of_worker(worker.id, readable=True)
            except RowUnreadable:
                continue
            if worker.state is not WorkerState.RESUMING:
                found += [row for row in rows if row.created_at <= now - self._after]
        return [one for one in found if await asyncio.to_thread(_is_cold, one, now - self._after)]

    async def compress(self, checkpoint_id: UUID) -> None:
        """An event tells how it went; a checkpoint that could not be compressed is as it was."""
        try:
            row = await self._store.checkpoints.get(checkpoint_id)
        except NotFound:
            return
        if row.folder is None or row.state is not CheckpointState.READY:
            return
        was_bytes = await asyncio.to_thread(allocated_below, row.folder)
        try:
            done = await self._cold.compress(row.folder)
        except WarmbootError as error:
            if not await asyncio.to_thread(row.folder.is_dir):  # removed meanwhile
                return
            log.error(f"The checkpoint {row.name} could not be compressed: {error.brief}")
            await self._events.emit(
                "worker.checkpoint-compress-failed",
                row.worker_id,
                checkpoint=row.name,
                error=error.as_dict(),
            )
            return
        if not done:  # it is needed after all
            return
        size_bytes = await asyncio.to_thread(allocated_below, row.folder)
        try:
            await self._store.checkpoints.update(row.id, stored_bytes=size_bytes)
        except NotFound:  # removed meanwhile
            return
        log.info(f"The checkpoint {row.name} is compressed")
        await self._events.emit(
            "worker.checkpoint-compressed",
            row.worker_id,
            checkpoint=row.name,
            size_bytes=size_bytes,
            was_bytes=was_bytes,
        )


def _is_cold(row: Checkpoint, before: datetime) -> bool:
    """Whether it has plain pages, all of them so old."""
    if row.folder is None or row.state is not CheckpointState.READY:
        return False
    try:
        times = [page.stat().st_mtime for page in plain_pages(row.folder)]
    except FileNotFoundError:
        return False
    return bool(times) and datetime.fromtimestamp(max(times), UTC) <= before

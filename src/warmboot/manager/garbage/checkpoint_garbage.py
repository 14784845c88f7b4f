"""Workers' checkpoints: keeps them within their budget, and removes folders that belong to none.

Those that the engine keeps are not counted: they lie on its disk. A checkpoint is marked deleted
by a guarded update in the same transaction in which it is seen that it is not needed, so a resume
that chooses it at the same moment either has it or is told that it is gone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import structlog

from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.stored import StoredCheckpoints
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.garbage.choose_garbage import over_budget
from warmboot.model.checkpoint import Checkpoint, CheckpointState
from warmboot.model.errors import IllegalTransition, NotFound, RowUnreadable
from warmboot.model.garbage import DiskEntry, Garbage, Kept
from warmboot.model.owned_ids import OwnedIds
from warmboot.model.worker import Worker, WorkerState
from warmboot.store import Store

log = structlog.get_logger(__name__)


class CheckpointsInUse:
    """Which checkpoints this manager is just reading: exporting them, say. They stay."""

    def __init__(self) -> None:
        self._held: Counter[UUID] = Counter()

    def __contains__(self, checkpoint_id: object) -> bool:
        return checkpoint_id in self._held

    @contextmanager
    def held(self, checkpoint_id: UUID) -> Iterator[None]:
        self._held[checkpoint_id] += 1
        try:
            yield
        finally:
            self._held[checkpoint_id] -= 1
            if not self._held[checkpoint_id]:
                del self._held[checkpoint_id]


@dataclass(frozen=True, slots=True)
class SeenCheckpoints:
    """``known`` are the owners of ``entries`` that the database knows."""

    entries: Collection[DiskEntry] = ()
    known: OwnedIds = field(default_factory=OwnedIds)
    kept: Collection[Kept] = ()


class CheckpointGarbage:
    def __init__(
        self,
        store: Store,
        events: EventLog,
        stored: StoredCheckpoints,
        in_use: CheckpointsInUse,
        budget_bytes: int,
    ) -> None:
        self._store = store
        self._events = events
        self._stored = stored
        self._in_use = in_use
        self.budget_bytes = budget_bytes

    async def look(self) -> SeenCheckpoints:
        """The disk first: a row is written before its folder is made."""
        entries = await asyncio.to_thread(self._stored.find)
        sizes = {entry.path: entry.size_bytes for entry in entries}
        known: set[str] = set()
        kept: list[Kept] = []
        async for worker, rows in self._all():
            known |= {str(worker.id), *(owner for row in rows for owner in _owned(row))}
            kept += self._kept(worker, rows, sizes)
        # A row that cannot be read may be the owner of anything.
        any_id = bool(await self._store.unreadable.list(("workers", "checkpoints")))
        return SeenCheckpoints(entries, OwnedIds(frozenset(known), any_id), kept)

    async def keep_budget(self) -> None:
        """Remove the oldest automatic checkpoints that are too many, by what is known of sizes."""
        if not self.budget_bytes:
            return
        kept = [one async for worker, rows in self._all() for one in self._kept(worker, rows, {})]
        for one in over_budget(kept, self.budget_bytes):
            await self.remove(one)

    async def remove(self, one: Garbage) -> bool:
        """Remove a checkpoint for the budget; whether it is gone."""
        async for worker, rows in self._all():
            for row in rows:
                if row.folder is not None and row.folder == one.path:
                    return await self._remove(worker.id, row)
        return True

    async def remove_folder(self, one: DiskEntry) -> bool:
        """Whether it is gone; it is asked once more whether it is anybody's."""
        if one.owner in (await self.look()).known:
            return False
        return await asyncio.to_thread(self._stored.remove, one)

    async def _all(self) -> AsyncIterator[tuple[Worker, Sequence[Checkpoint]]]:
        """Workers with their checkpoints; not one of which a row cannot be read."""
        for worker in await self._store.workers.list():
            with suppress(RowUnreadable):
                yield worker, await self._store.checkpoints.of_worker(worker.id)

    def _kept(
        self, worker: Worker, rows: Collection[Checkpoint], sizes: Mapping[Path, int]
    ) -> Iterator[Kept]:
        for row in rows:
            if row.folder is not None and row.state is not CheckpointState.DELETED:
                yield Kept(
                    row.id,
                    f"{worker.name}/{row.name}",
                    row.folder,
                    sizes.get(row.folder, row.stored_bytes or row.size_bytes),
                    row.created_at,
                    self._is_needed(worker, row, rows),
                )

    def _is_needed(self, worker: Worker, row: Checkpoint, rows: Collection[Checkpoint]) -> bool:
        """By the worker, by who made it, or by who reads it.

        The newest is what the worker can be resumed from if its process ends.
        """
        usable = [one for one in rows if one.state is CheckpointState.READY]
        return (
            not row.automatic
            or row.state is CheckpointState.CREATING
            or row.id == worker.paused_into
            or row.id in self._in_use
            or worker.state is WorkerState.RESUMING
            or row == max(usable, key=lambda one: (one.created_at, one.id), default=None)
        )

    async def _remove(self, worker_id: UUID, row: Checkpoint) -> bool:
        try:
            async with self._store.transaction():
                worker = await self._store.workers.get(worker_id)
                rows = await self._store.checkpoints.of_worker(worker_id)
                if self._is_needed(worker, await self._store.checkpoints.get(row.id), rows):
                    return False
                await self._store.checkpoints.set_state(row.id, CheckpointState.DELETED)
        except RowUnreadable:
            return False
        except (IllegalTransition, NotFound):  # somebody else removes it
            return True
        if row.folder is not None:
            await asyncio.to_thread(CheckpointFolder(row.folder).remove)
        await self._store.checkpoints.remove(row.id)
        log.info(f"Checkpoint {row.name} of {worker.name} goes: the checkpoints' budget is used up")
        await self._events.emit(
            "worker.checkpoint-deleted",
            worker.id,
            name=worker.name,
            checkpoint=row.name,
            why="over-budget",
        )
        return True


def _owned(row: Checkpoint) -> set[str]:
    """As ``StoredCheckpoints`` names it."""
    place = f"{row.worker_id}/"
    if row.state is CheckpointState.CREATING:
        return {f"{place}{row.name}", f"{place}.{row.name}.making"}
    return {f"{place}{row.name}"}

"""Giving back the files of deleted snapshots, once no VM maps them."""

from __future__ import annotations

import asyncio

import structlog

from warmboot.host.agent import HostAgent
from warmboot.model.errors import InUse
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.store import Store

log = structlog.get_logger(__name__)


class SnapshotCollector:
    def __init__(self, store: Store, host: HostAgent) -> None:
        self._store = store
        self._host = host
        self._lock = asyncio.Lock()

    async def collect_released(self) -> None:
        """Remove every deleted snapshot that is not leased: files first, then the row."""
        async with self._lock:
            await self._collect()

    async def _collect(self) -> None:
        for snapshot in await self._store.snapshots.list(include_deleted=True):
            if snapshot.state is not SnapshotState.DELETED:
                continue
            if await self._store.snapshots.leases(snapshot.id):
                continue  # nobody can lease it any more: it is deleted
            try:
                await self._host.files.discard(snapshot.runtime_image_id, snapshot.id)
                await self._store.snapshots.purge(snapshot.id)
            except InUse:  # referenced otherwise; the next round sees to it
                continue
            except OSError as error:  # the row stays, so the next round tries again
                log.error("a deleted snapshot's files stay", of=str(snapshot.id), error=str(error))

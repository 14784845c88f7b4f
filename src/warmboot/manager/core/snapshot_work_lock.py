"""Serializes heavy work on the files of snapshots, and knows on which snapshot it works."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Collection
from uuid import UUID


class SnapshotWorkLock:
    """``busy`` are the snapshots for which it is held or waited for: nobody takes them away."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._wanted: Counter[UUID] = Counter()

    @contextlib.asynccontextmanager
    async def __call__(self, snapshot_id: UUID) -> AsyncIterator[None]:
        self._wanted[snapshot_id] += 1
        try:
            async with self._lock:
                yield
        finally:
            self._wanted[snapshot_id] -= 1
            self._wanted += Counter()  # only those above zero stay

    def busy(self) -> Collection[UUID]:
        return frozenset(self._wanted)

"""Checkpoints are compressed when they are cold, and unpacked when they are needed.

Whoever reads one holds it plain (``held_plain``). A compression works beside the plain files, at
low priority, and takes its place only if nobody reads them then: so nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from warmboot.criu.runtime import compression
from warmboot.system.concurrency import finish, in_stoppable_thread
from warmboot.system.low_priority import LowPriorityRunner, run_at_low_priority


class ColdCheckpoints:
    """The compression of all checkpoints of one manager that have not been used for long."""

    def __init__(self, at_low_priority: LowPriorityRunner = run_at_low_priority) -> None:
        self._at_low_priority = at_low_priority
        self._readers: Counter[Path] = Counter()
        self._changing: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def held_plain(self, folder: Path) -> AsyncIterator[bool]:
        """Plain while the body runs, and after it until it is cold; whether it had to be unpacked.

        ``CheckpointError``, ``DiskFull``, ``HostError``: then it is as it was, as
        when it is cancelled while it is unpacked.
        """
        self._readers[folder] += 1
        try:
            async with self._lock(folder):
                work = partial(compression.unpack, folder)
                unpacked = await in_stoppable_thread(work, "unpack-checkpoint")
            yield unpacked
        finally:
            self._readers[folder] -= 1
            if not self._readers[folder]:
                del self._readers[folder]

    async def compress(self, folder: Path) -> bool:
        """Whether it is compressed now; not if somebody reads it meanwhile. Idempotent.

        ``CheckpointError`` if it is damaged, ``DiskFull``: then it is as it was.
        """
        await asyncio.to_thread(self._tidy, folder)
        for plain in await asyncio.to_thread(compression.plain_pages, folder):
            sums = await asyncio.to_thread(compression.kept_sums, plain)
            new = await self._at_low_priority(compression.pack, plain, sums)
            try:
                async with self._lock(folder):
                    if folder in self._readers:
                        return False
                    work = asyncio.ensure_future(asyncio.to_thread(compression.take, new, plain))
                    await finish(work)
            finally:
                await asyncio.to_thread(new.unlink, missing_ok=True)
        return folder not in self._readers

    def _tidy(self, folder: Path) -> None:
        if folder not in self._readers:
            compression.tidy(folder)

    def _lock(self, folder: Path) -> asyncio.Lock:
        return self._changing.setdefault(folder, asyncio.Lock())

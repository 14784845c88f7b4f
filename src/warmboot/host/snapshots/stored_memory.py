"""Provides a snapshot's memory to the hypervisor in a form that it supports.

plain      ─────────────────────────▶ snapshot.mem
compressed ── takes frames ─────────▶ snapshot.mem.zst, pages served as they are touched
           └─ needs a file ─────────▶ the cache's, unpacked once for all boots
a difference ───────────────────────▶ the cache's, laid over its base once for all boots
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import structlog

from warmboot.host.snapshots.memory_cache import MemoryCache
from warmboot.host.snapshots.memory_differences import StoredFile
from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.hypervisors.base import Hypervisor, MachineSnapshot
from warmboot.model.errors import NotSupported
from warmboot.model.runtime_snapshot import STATE_FILE, Moment, SnapshotManifest

T = TypeVar("T")

log = structlog.get_logger(__name__)


async def with_machine(
    hypervisor: Hypervisor,
    files: SnapshotFiles,
    cache: MemoryCache,
    snapshot: Path,
    open_it: Callable[[MachineSnapshot], Awaitable[T]],
) -> T:
    """What ``open_it`` makes of the machine saved in the folder ``snapshot``.

    Files stay in place until it returns; by then its VMM has opened them. ``SnapshotDamaged`` if a
    frame is; ``DiskFull`` if there is no room to unpack.
    """
    state = snapshot / STATE_FILE
    async with files.reading(snapshot) as manifest:
        if manifest.moment is not None:
            async with _laid(files, cache, snapshot, manifest, manifest.moment) as memory:
                return await open_it(MachineSnapshot(memory, state, frozen=True))
        if not manifest.compressed:
            return await open_it(MachineSnapshot(snapshot / manifest.memory_file, state))
        if (await hypervisor.probe()).capabilities.memory_frames:
            try:
                return await open_it(MachineSnapshot(snapshot / manifest.memory_file, state, True))
            except NotSupported as error:
                log.warning(f"memory is unpacked first: {error.brief}", of=snapshot.name)
        async with cache.unpacked(snapshot, manifest) as memory:
            return await open_it(MachineSnapshot(memory, state))


@contextlib.asynccontextmanager
async def _laid(
    files: SnapshotFiles,
    cache: MemoryCache,
    snapshot: Path,
    manifest: SnapshotManifest,
    moment: Moment,
) -> AsyncIterator[Path]:
    difference = StoredFile(snapshot / manifest.memory_file, manifest.compressed)
    async with contextlib.AsyncExitStack() as held:
        base = None
        if moment.base is not None:
            await files.check(moment.base)
            below = await held.enter_async_context(files.reading(moment.base))
            base = StoredFile(moment.base / below.memory_file, below.compressed)
        laid = cache.laid(manifest.snapshot_id, difference, manifest.plain, base)
        yield await held.enter_async_context(laid)

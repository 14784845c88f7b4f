"""Provides a snapshot's memory to the hypervisor in a form that it supports.

plain      ─────────────────────────▶ snapshot.mem
compressed ── takes frames ─────────▶ snapshot.mem.zst, pages served as they are touched
           └─ needs a file ─────────▶ the cache's, unpacked once for all boots
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import structlog

from warmboot.host.snapshots.memory_cache import MemoryCache
from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.hypervisors.base import Hypervisor, MachineSnapshot
from warmboot.model.errors import NotSupported
from warmboot.model.runtime_snapshot import FRAMES_FILE, MEMORY_FILE, STATE_FILE

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
        if not manifest.compressed:
            return await open_it(MachineSnapshot(snapshot / MEMORY_FILE, state))
        if (await hypervisor.probe()).capabilities.memory_frames:
            try:
                return await open_it(MachineSnapshot(snapshot / FRAMES_FILE, state, True))
            except NotSupported as error:
                log.warning(f"memory is unpacked first: {error.brief}", of=snapshot.name)
        async with cache.unpacked(snapshot, manifest) as memory:
            return await open_it(MachineSnapshot(memory, state))

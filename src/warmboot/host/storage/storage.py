"""The storage root, some of whose disk is kept free.

Below the floor nothing new is begun. Caches are the first to shrink: what they hold can be made
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from warmboot.host.snapshots.memory_cache import MemoryCache
from warmboot.host.storage.disk_scan import DiskScan
from warmboot.host.vm.vm_files import VMM_GID
from warmboot.model.errors import DiskFull
from warmboot.model.usage import StorageUsage
from warmboot.system import disks, usage

log = structlog.get_logger(__name__)

GO_ON_BYTES = 32 << 20
"""With less room than this, a VM that was resumed would soon stand still again."""


@dataclass(frozen=True, slots=True)
class Storage:
    root: Path
    floor_bytes: int
    cache: MemoryCache
    scan: DiskScan

    async def make_folders(self, *folders: Path) -> None:
        """The root and ``folders`` in it, through which VMMs may pass to what is theirs."""
        await asyncio.to_thread(_make_folders, (self.root, *folders))

    async def ensure_room(self, needed_bytes: int = 0) -> None:
        """``DiskFull`` if ``needed_bytes`` would leave less than the floor; caches shrink first."""
        missing = self.floor_bytes + needed_bytes - disks.free_bytes(self.root)
        if missing > 0:
            cached = sum(entry.size_bytes for entry in await self.cache.entries())
            for entry in await self.cache.evict(max(0, cached - missing)):
                log.warning("the disk is nearly full: a cache shrinks", of=str(entry.snapshot_id))
        self.check_room(needed_bytes)

    async def make_room(self) -> bool:
        """Whether VMs that stand still for want of room can go on; caches shrink first."""
        with contextlib.suppress(DiskFull):  # the floor is for what is new, not for what runs
            await self.ensure_room(GO_ON_BYTES)
        return disks.free_bytes(self.root) >= GO_ON_BYTES

    def room_bytes(self) -> int:
        """What is free above the floor; below zero when it is reached."""
        return disks.free_bytes(self.root) - self.floor_bytes

    def check_room(self, needed_bytes: int = 0) -> None:
        """``DiskFull`` if ``needed_bytes`` would leave less than the floor."""
        free = disks.free_bytes(self.root)
        if free < self.floor_bytes + needed_bytes:
            needed = f", and {needed_bytes >> 20} MiB are needed" if needed_bytes else ""
            raise DiskFull(
                f"only {free >> 20} MiB are free below {self.root}",
                details=f"the floor is {self.floor_bytes >> 20} MiB{needed}",
                resolution="free some space, or lower MANAGER_DISK_FLOOR_MIB",
            )

    def usage(self) -> StorageUsage:
        return usage.of_storage(self.root, self.floor_bytes)


async def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it; nothing happens if it does not exist."""
    await asyncio.to_thread(shutil.rmtree, folder, True)


def _make_folders(folders: Sequence[Path]) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(folder, -1, VMM_GID)
            folder.chmod(0o710)

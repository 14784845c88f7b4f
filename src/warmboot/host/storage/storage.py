"""The storage root: imports runtime images, and keeps some of its disk free.

Below the floor nothing new is begun. Caches are the first to shrink: what they hold can be made
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from warmboot.host.snapshots.memory_cache import MemoryCache
from warmboot.host.storage.image_files import check_image, note_image
from warmboot.host.vm.vm_files import VMM_GID
from warmboot.images.files import import_bare_files, import_runtime_image, stored_folder
from warmboot.images.renew import renew_agent
from warmboot.model.errors import DiskFull
from warmboot.model.runtime_image import RuntimeImage, RuntimeImageManifest
from warmboot.model.usage import StorageUsage
from warmboot.system import disks, usage
from warmboot.system.file_stamps import discard_stamps

log = structlog.get_logger(__name__)

GO_ON_BYTES = 32 << 20
"""With less room than this, a VM that was resumed would soon stand still again."""


@dataclass(frozen=True, slots=True)
class Storage:
    root: Path
    floor_bytes: int
    cache: MemoryCache

    async def make_folders(self, *folders: Path) -> None:
        """The root and ``folders`` in it, through which VMMs may pass to what is theirs."""
        await asyncio.to_thread(_make_folders, (self.root, *folders))

    async def import_image(
        self, path: Path | None, kernel: Path | None, rootfs: Path | None, initrd: Path | None
    ) -> tuple[Path, RuntimeImageManifest]:
        if path is not None:
            manifest = await import_runtime_image(path, self.root)
        else:
            assert kernel is not None
            assert rootfs is not None
            manifest = await import_bare_files(kernel, rootfs, initrd, self.root)
        return await self._stored(manifest)

    async def renew_agent(self, image: Path) -> tuple[Path, RuntimeImageManifest]:
        return await self._stored(await renew_agent(image, self.root))

    async def _stored(self, manifest: RuntimeImageManifest) -> tuple[Path, RuntimeImageManifest]:
        folder = stored_folder(self.root, manifest.digest)
        await asyncio.to_thread(_let_vmms_read, folder)
        await asyncio.to_thread(note_image, folder, manifest)
        return folder, manifest

    async def check_image(self, image: RuntimeImage, *, thorough: bool) -> None:
        """``ImageDamaged``; cheap where nothing looks changed, unless it is ``thorough``."""
        await asyncio.to_thread(check_image, image, thorough)

    async def suspect_image(self, image: RuntimeImage) -> None:
        """The next check of it takes all sums."""
        await asyncio.to_thread(discard_stamps, image.path)

    async def ensure_room(self, needed_bytes: int) -> None:
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

    def check_room(self, needed_bytes: int) -> None:
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
    """With all that is in it; nothing happens when it is not there."""
    await asyncio.to_thread(shutil.rmtree, folder, True)


def _let_vmms_read(folder: Path) -> None:
    if os.geteuid() != 0:
        return
    for path in (folder.parent, folder, *folder.iterdir()):
        status = path.stat()
        mode = 0o710 if stat.S_ISDIR(status.st_mode) else 0o440
        # What is so already is left alone: a change of it would look like one of the content.
        if status.st_gid != VMM_GID:
            os.chown(path, -1, VMM_GID)
        if stat.S_IMODE(status.st_mode) != mode:
            path.chmod(mode)


def _make_folders(folders: Sequence[Path]) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(folder, -1, VMM_GID)
            folder.chmod(0o710)

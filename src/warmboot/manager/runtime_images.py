"""Runtime images, as the API offers them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from warmboot.host.agent import HostAgent
from warmboot.manager.collect_snapshots import SnapshotCollector
from warmboot.manager.event_log import EventLog
from warmboot.model.errors import InvalidRequest, NameTaken
from warmboot.model.names import check_name
from warmboot.model.runtime_image import RuntimeImage
from warmboot.store import Store


class RuntimeImages:
    """Implements ``ports.RuntimeImages``."""

    def __init__(
        self, store: Store, host: HostAgent, events: EventLog, collector: SnapshotCollector
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._collector = collector
        self._lock = asyncio.Lock()

    async def list(self) -> Sequence[RuntimeImage]:
        return await self._store.images.list()

    async def get(self, image_id: UUID) -> RuntimeImage:
        return await self._store.images.get(image_id)

    async def register(
        self,
        *,
        name: str,
        path: Path | None = None,
        kernel: Path | None = None,
        rootfs: Path | None = None,
        initrd: Path | None = None,
    ) -> RuntimeImage:
        """Damage is found here: every file is read and summed on its way into the storage."""
        check_name(name, "image name")
        if (path is None) == (kernel is None) or (kernel is None) != (rootfs is None):
            raise InvalidRequest(
                "name either an image folder or a kernel and a root file system",
                resolution="give `path`, or `kernel` and `rootfs` (and `initrd`)",
            )
        self._host.check_room()
        async with self._lock:  # the same files may be registered and deleted at the same time
            return await self._register(name, path, kernel, rootfs, initrd)

    async def _register(
        self,
        name: str,
        path: Path | None,
        kernel: Path | None,
        rootfs: Path | None,
        initrd: Path | None,
    ) -> RuntimeImage:
        folder, manifest = await self._host.import_image(path, kernel, rootfs, initrd)
        known = await self._store.images.by_digest(manifest.digest)
        if known is not None:
            return known
        if await self._store.images.by_name(name) is not None:
            await self._host.remove_image_folder(folder)
            raise NameTaken(
                f"there is a runtime image named {name!r} already, with other files",
                resolution="choose another name, or remove that one",
            )
        image = RuntimeImage(
            id=uuid4(),
            name=name,
            digest=manifest.digest,
            path=folder,
            manifest=manifest,
            created_at=datetime.now(UTC),
        )
        await self._store.images.add(image)
        await self._events.emit("runtime-image.registered", image.id, name=name)
        return image

    async def delete(self, image_id: UUID) -> None:
        """``InUse`` while a snapshot or a container needs it."""
        async with self._lock:
            image = await self._store.images.get(image_id)
            await self._collector.collect_released()
            await self._store.images.delete(image_id)
            await self._host.remove_image_folder(image.path)
        await self._events.emit("runtime-image.deleted", image_id)

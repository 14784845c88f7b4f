"""Runtime images, as the API offers them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.images.check_image import CheckImage
from warmboot.manager.protocols import Registered
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.model.conventions.names import check_name
from warmboot.model.errors import InvalidRequest, NameTaken, WarmbootError
from warmboot.model.runtime_image import (
    DEFAULT_IMAGE,
    RENEWED_FROM,
    RuntimeImage,
    RuntimeImageManifest,
)
from warmboot.store import Store

log = structlog.get_logger(__name__)


class RuntimeImages:
    """Implements ``protocols.RuntimeImages``. ``lock`` is held while image folders come or go."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        garbage: CollectGarbage,
        lock: asyncio.Lock,
        snapshots: RuntimeSnapshots,
        check: CheckImage,
        *,
        auto_snapshot: bool,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._garbage = garbage
        self._lock = lock
        self._snapshots = snapshots
        self._check = check
        self._auto_snapshot = auto_snapshot

    async def list(self) -> Sequence[RuntimeImage]:
        return await self._store.images.list()

    async def get(self, image_id: UUID) -> RuntimeImage:
        return await self._store.images.get(image_id)

    async def stored_bytes(self, image: RuntimeImage) -> int:
        return await self._host.images.stored_bytes(image)

    async def register(
        self,
        *,
        name: str,
        path: Path | None = None,
        kernel: Path | None = None,
        rootfs: Path | None = None,
        initrd: Path | None = None,
        build_snapshot: bool | None = None,
    ) -> Registered:
        """Damage is found here: every file is read and summed on its way into the storage.

        An image that was damaged there is whole again then, with its id and all that is of it.

        Its first snapshot is begun then, unless it has one; that it cannot be is no error.
        """
        check_name(name, "image name")
        if (path is None) == (kernel is None) or (kernel is None) != (rootfs is None):
            raise InvalidRequest(
                "name either an image folder or a kernel and a root file system",
                resolution="give `path`, or `kernel` and `rootfs` (and `initrd`)",
            )
        await self._host.storage.ensure_room()
        async with self._lock:  # the same files may be registered and deleted at the same time
            image = await self._register(name, path, kernel, rootfs, initrd)
        return await self._with_snapshot(image, build_snapshot)

    async def register_default(self, kernel: Path, rootfs: Path, initrd: Path | None) -> Registered:
        """Bare files become the image ``default``; one of that name with other content keeps all
        but the name."""
        await self._host.storage.ensure_room()
        async with self._lock:
            folder, manifest = await self._host.images.import_files(None, kernel, rootfs, initrd)
            image = await self._known(folder, manifest.digest)
            if image is None or image.name != DEFAULT_IMAGE:
                image = await self._take_default(image, folder, manifest)
        return await self._with_snapshot(image, None)

    async def _take_default(
        self, image: RuntimeImage | None, folder: Path, manifest: RuntimeImageManifest
    ) -> RuntimeImage:
        before = await self._store.images.by_name(DEFAULT_IMAGE)
        renamed: list[tuple[RuntimeImage, str]] = []
        new = _image(DEFAULT_IMAGE, folder, manifest)
        aside = "" if before is None else await self._name_aside(before)
        async with self._store.transaction():
            if before is not None:
                await self._store.images.rename(before.id, aside)
                renamed.append((before, aside))
            if image is not None:
                await self._store.images.rename(image.id, DEFAULT_IMAGE)
                renamed.append((image, DEFAULT_IMAGE))
            else:
                await self._store.images.add(new)
        for one, name in renamed:
            log.warning(f"Runtime image {one.name} is named {name} now")
            await self._events.emit("runtime-image.renamed", one.id, name=name, was=one.name)
        if image is None:
            await self._events.emit("runtime-image.registered", new.id, name=new.name)
        return await self._store.images.get(new.id if image is None else image.id)

    async def _name_aside(self, image: RuntimeImage) -> str:
        digits = image.digest.removeprefix("sha256:")
        for length in (8, 16):
            name = f"{image.name}-{digits[:length]}"
            if await self._store.images.by_name(name) is None:
                return name
        return f"{image.name}-{image.id.hex}"

    async def _with_snapshot(self, image: RuntimeImage, build_snapshot: bool | None) -> Registered:
        wanted = self._auto_snapshot if build_snapshot is None else build_snapshot
        if not wanted:
            return Registered(image, note="no snapshot was asked for")
        try:
            snapshot_id, begun = await self._snapshots.ensure(image.id)
        except WarmbootError as error:
            log.warning(f"No runtime snapshot of image {image.name} was begun: {error.brief}")
            note = "; ".join(part for part in (error.brief, error.resolution) if part)
            return Registered(image, note=note)
        return Registered(image, snapshot_id, begun)

    async def _register(
        self,
        name: str,
        path: Path | None,
        kernel: Path | None,
        rootfs: Path | None,
        initrd: Path | None,
    ) -> RuntimeImage:
        folder, manifest = await self._host.images.import_files(path, kernel, rootfs, initrd)
        known = await self._known(folder, manifest.digest)
        if known is not None:
            return known
        if await self._store.images.by_name(name) is not None:
            await self._garbage.drop_image_folder(folder)
            raise NameTaken(
                f"there is a runtime image named {name!r} already, with other files",
                resolution="choose another name, or remove that one",
            )
        image = _image(name, folder, manifest)
        await self._store.images.add(image)
        await self._events.emit("runtime-image.registered", image.id, name=name)
        return image

    async def _known(self, folder: Path, digest: str) -> RuntimeImage | None:
        """The image that has these files, or had them before its agent was renewed."""
        known = await self._store.images.by_digest(digest) or await self._renewed_from(digest)
        if known is None:
            return None
        await self._garbage.drop_image_folder(folder)  # unless it is the image's own
        if known.digest == digest:  # a damaged copy of it was replaced just now
            await self._check.whole(known)
        return await self._store.images.get(known.id)

    async def _renewed_from(self, digest: str) -> RuntimeImage | None:
        """The image that was registered with these files, before its agent was renewed."""
        for image in await self._store.images.list():
            if image.manifest.labels.get(RENEWED_FROM) == digest:
                return image
        return None

    async def delete(self, image_id: UUID) -> None:
        """``InUse`` while a snapshot or a container needs it."""
        async with self._lock:
            image = await self._store.images.get(image_id)
            await self._garbage.collect_released()
            await self._store.images.delete(image_id)
            await self._garbage.drop_image_folder(image.path)
        await self._events.emit("runtime-image.deleted", image_id)


def _image(name: str, folder: Path, manifest: RuntimeImageManifest) -> RuntimeImage:
    return RuntimeImage(
        id=uuid4(),
        name=name,
        digest=manifest.digest,
        path=folder,
        manifest=manifest,
        created_at=datetime.now(UTC),
    )

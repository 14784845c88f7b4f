"""Renewing the guest agent of a runtime image that was made by another version of warmboot.

Nothing can be booted from an image whose agent speaks a protocol that is not spoken here. So
whoever is about to boot from one (a snapshot's build, a cold boot) has its agent renewed first, and
once: the image keeps its id and its name, and has the new files from then on. Its older snapshots
do not fit any more, and are migrated as after any upgrade.

The old folder may be under the disks of VMs. It belongs to no image then, and goes with the first
collection that finds no VM that needs it. So does the new one if we are killed before the image's
row names it: the next start sweeps it.
"""

from __future__ import annotations

import asyncio

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.model.errors import WarmbootError
from warmboot.model.runtime_image import GUEST_PROTOCOLS, RuntimeImage, speaks_with
from warmboot.store import Store
from warmboot.system.disks import os_error
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)


class RenewAgent:
    """Call it with an image to get the same with an agent that is understood.

    Where it is already, nothing is done. ``lock`` is held while image folders come or go.
    """

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        garbage: CollectGarbage,
        lock: asyncio.Lock,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._garbage = garbage
        self._lock = lock

    async def __call__(self, image: RuntimeImage) -> RuntimeImage:
        if speaks_with(image.manifest.agent_version):
            return image
        async with self._lock:
            image = await self._store.images.get(image.id)  # somebody may have been faster
            if speaks_with(image.manifest.agent_version):
                return image
            try:
                return await self._run(image)
            except (WarmbootError, OSError) as error:
                cause = os_error(error) if isinstance(error, OSError) else error
                raise await self._failed(image, cause) from error

    async def _run(self, image: RuntimeImage) -> RuntimeImage:
        was = image.manifest.agent_version
        log.warning(f"Runtime image {image.name} gets another guest agent: its protocol is {was}")
        watch = Stopwatch()
        await self._host.storage.ensure_room(image.manifest.files["rootfs"].size_bytes)
        folder, manifest = await self._host.images.renew_agent(image.path)
        async with on_failure(lambda: self._garbage.drop_image_folder(folder)):
            renewed = await self._store.images.renew(
                image.id, image.digest, manifest.digest, folder, manifest
            )
        await self._events.emit(
            "runtime-image.renewed",
            image.id,
            agent=renewed.manifest.agent_version,
            was=was,
            digest=renewed.digest,
            seconds=round(watch.elapsed_s, 3),
        )
        return renewed

    async def _failed(self, image: RuntimeImage, cause: WarmbootError) -> WarmbootError:
        """What to raise: the same, with what it is about."""
        spoken = ", ".join(sorted(GUEST_PROTOCOLS))
        what = f"its protocol is {image.manifest.agent_version}, this warmboot speaks {spoken}"
        error = type(cause)(
            f"the guest agent of the runtime image {image.name} could not be renewed",
            details=": ".join(part for part in (what, cause.brief, cause.details) if part),
            resolution=cause.resolution,
        )
        log.error(f"{error.brief}: {cause.brief}")
        await self._events.emit("runtime-image.renew-failed", image.id, error=error.as_dict())
        return error

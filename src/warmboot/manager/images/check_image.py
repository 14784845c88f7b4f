"""Checks a runtime image before something is booted from it.

    whole ──▶ damaged ──▶ whole
              marked; nothing is      registered once more, or its file put back: its snapshots
              booted or built         are rebuilt at once

The look is cheap while the image's files look as they did when their sums were last taken. The sums
are taken before a snapshot is built, after a snapshot of the image was found damaged (they have the
root file system in common), and as long as the image is marked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.images.renew_agent import RenewAgent
from warmboot.model.errors import ImageDamaged, NotFound
from warmboot.model.runtime_image import RuntimeImage, speaks_with
from warmboot.store import Store

log = structlog.get_logger(__name__)


class CheckImage:
    """Call it with an image; ``ImageDamaged`` if it is. ``on_whole``: it is whole again."""

    def __init__(
        self, store: Store, host: HostAgent, events: EventLog, on_whole: Callable[[], None]
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._on_whole = on_whole
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, image: RuntimeImage, *, thorough: bool = False) -> RuntimeImage:
        async with self._one_at_a_time:  # of many boots at once only the first takes the sums
            image = await self._store.images.get(image.id)
            thorough = thorough or image.damage is not None
            try:
                await self._host.images.check(image, thorough=thorough)
            except ImageDamaged as error:
                await self._mark(image, error)
                raise
            if image.damage is not None:
                await self.whole(image)
                image = await self._store.images.get(image.id)
        return image

    async def suspect(self, image_id: UUID) -> None:
        """Something made of it was found damaged: the next look takes the sums."""
        try:
            await self._host.images.suspect(await self._store.images.get(image_id))
        except NotFound:  # deleted meanwhile
            return

    async def whole(self, image: RuntimeImage) -> None:
        """Take the mark from a damaged image whose sums are right again."""
        if not await self._store.images.set_damage(image.id, None):
            return
        log.info(f"Runtime image {image.name} is whole again")
        for snapshot in await self._store.snapshots.for_image(image.id):
            await self._store.snapshots.forget_rebuild_failures(snapshot.id)
        await self._events.emit("runtime-image.repaired", image.id, name=image.name)
        self._on_whole()

    async def _mark(self, image: RuntimeImage, error: ImageDamaged) -> None:
        if not await self._store.images.set_damage(image.id, error.as_dict()):
            return
        log.error(f"Runtime image {image.name} is damaged: {error.details}")
        await self._events.emit(
            "runtime-image.damaged", image.id, name=image.name, error=error.as_dict()
        )


class PrepareImage:
    """Call it with an image that is about to be booted from: it is checked, and its guest agent is
    renewed where it is not understood. The image as it is then."""

    def __init__(self, check: CheckImage, renew: RenewAgent) -> None:
        self._check = check
        self._renew = renew

    async def __call__(self, image: RuntimeImage, *, thorough: bool = False) -> RuntimeImage:
        renews = not speaks_with(image.manifest.agent_version)
        return await self._renew(await self._check(image, thorough=thorough or renews))

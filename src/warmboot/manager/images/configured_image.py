"""The runtime image that the settings name: ``CONTAINER_RUNTIME_KERNEL`` and ``_ROOTFS``.

    the files look as at the last start, and are registered ─▶ nothing to do
    else ─▶ read and summed ─▶ the same content: the same image
                            └▶ other content: a new image has the name ``default``; the one before
                               keeps its id, containers and snapshots, and is ``default-<digest>``
    missing, or refused ─▶ told, and the manager serves: ``default`` is what it was

That they cannot be read is no reason to leave containers that run without their manager.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from warmboot.manager.core.event_log import EventLog
from warmboot.manager.images.runtime_images import RuntimeImages
from warmboot.manager.protocols import Check
from warmboot.model.errors import InvalidRequest, WarmbootError
from warmboot.model.runtime_image import DEFAULT_IMAGE
from warmboot.store import Store
from warmboot.system.disks import os_error
from warmboot.system.file_stamps import stamp

log = structlog.get_logger(__name__)

_NOTED = "given-image"


@dataclass(frozen=True, slots=True)
class ConfiguredFiles:
    kernel: Path
    rootfs: Path
    initrd: Path | None = None

    def named(self) -> dict[str, Path]:
        """The files by the settings that name them."""
        files = {"KERNEL": self.kernel, "ROOTFS": self.rootfs}
        if self.initrd is not None:
            files["INITRD"] = self.initrd
        return {f"CONTAINER_RUNTIME_{name}": path for name, path in files.items()}


class ConfiguredImage:
    """``register`` once, at the start; ``checks`` says whether that went well."""

    def __init__(
        self, store: Store, images: RuntimeImages, events: EventLog, files: ConfiguredFiles | None
    ) -> None:
        self._store = store
        self._images = images
        self._events = events
        self._files = files
        self._refused: WarmbootError | None = None

    async def register(self) -> None:
        """Register the configured files as the image ``default``; what speaks against it
        is told.
        """
        if self._files is None:
            return
        try:
            await self._register(self._files)
        except WarmbootError as error:
            await self._tell(error)
        except OSError as error:
            await self._tell(os_error(error))

    async def checks(self) -> Sequence[Check]:
        """The findings of ``warmboot doctor``; without settings there are none."""
        if self._files is None:
            return ()
        error = self._refused
        return (
            Check(
                "given image",
                error is None,
                f"{self._files.rootfs} is the runtime image {DEFAULT_IMAGE}"
                if error is None
                else error.brief,
                why="" if error is None else error.details,
                remedy="" if error is None else error.resolution,
            ),
        )

    async def _register(self, files: ConfiguredFiles) -> None:
        now = await asyncio.to_thread(_look, files)
        if await self._is_noted(now):
            return
        registered = await self._images.register_default(files.kernel, files.rootfs, files.initrd)
        noted = {"image_id": str(registered.image.id), "files": now}
        await self._store.meta.set(_NOTED, json.dumps(noted))

    async def _is_noted(self, now: dict[str, Any]) -> bool:
        """Whether these very files were registered already, and are ``default`` still."""
        noted = json.loads(await self._store.meta.get(_NOTED) or "{}")
        image = await self._store.images.by_name(DEFAULT_IMAGE)
        return (
            image is not None and noted.get("files") == now and UUID(noted["image_id"]) == image.id
        )

    async def _tell(self, error: WarmbootError) -> None:
        self._refused = error
        log.error(f"{error.brief}: the runtime image {DEFAULT_IMAGE} stays as it was")
        await self._events.emit("runtime-image.refused", DEFAULT_IMAGE, error=error.as_dict())


def _look(files: ConfiguredFiles) -> dict[str, Any]:
    """What tells these files, as they are now, from others; ``InvalidRequest`` without one."""
    seen = {}
    for setting, path in files.named().items():
        try:
            seen[setting] = {"path": str(path.resolve(strict=True)), **stamp(path)}
        except OSError as error:
            raise InvalidRequest(
                f"{setting} names {path}, which cannot be read",
                details=error.strerror or str(error),
                resolution="correct the variable or put the file there, and start it again",
            ) from error
    return seen

"""The wiring of the garbage collector."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from warmboot.bootstrap.core import Core
from warmboot.bootstrap.workers import WorkerParts, docker_socket
from warmboot.criu.containerd import RestoreCopies
from warmboot.manager.garbage.choose_garbage import Limits
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.settings import Settings


@dataclass(frozen=True, slots=True)
class GarbageParts:
    """``image_folders`` is held by whoever adds or removes one."""

    collect: CollectGarbage
    image_folders: asyncio.Lock


def wire_garbage(core: Core, workers: WorkerParts) -> GarbageParts:
    image_folders = asyncio.Lock()
    collect = CollectGarbage(
        core.store,
        core.host,
        core.events,
        _limits(core.settings),
        image_folders,
        core.admission.in_background,
        RestoreCopies(docker_socket(core.settings)),
        workers.garbage,
    )
    return GarbageParts(collect, image_folders)


def _limits(settings: Settings) -> Limits:
    days = settings.snapshot_unused_days
    return Limits(
        max_active=settings.max_runtime_snapshots,
        max_images=settings.max_image_snapshots,
        image_budget_bytes=settings.image_budget_mib << 20,
        unused_after=timedelta(days=days) if days else None,
        cache_budget_bytes=settings.cache_budget_mib << 20,
        checkpoint_budget_bytes=settings.checkpoint_budget_mib << 20,
        disk_floor_bytes=settings.disk_floor_mib << 20,
    )

"""The parts that look after what is stored: collecting, compressing, checking."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from warmboot.bootstrap.workers import docker_socket
from warmboot.criu.containerd import RestoreCopies
from warmboot.host.agent import HostAgent
from warmboot.manager.core.background import Failed
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.saga import Saga, SagaRunner
from warmboot.manager.core.snapshot_work_lock import SnapshotWorkLock
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.garbage.choose_garbage import Limits
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.housekeeping import Housekeeping, HousekeepingConfig
from warmboot.manager.snapshots.check_integrity import CheckIntegrity
from warmboot.manager.snapshots.choose_form import FormPolicy
from warmboot.manager.snapshots.compress_snapshot import CompressSnapshot
from warmboot.manager.snapshots.snapshot_health import SnapshotHealth
from warmboot.settings import Settings
from warmboot.store import Store


class Collecting:
    """The collector, and what it shares: its locks over image folders and work on snapshots."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        host: HostAgent,
        runner: SagaRunner,
        events: EventLog,
    ) -> None:
        self.image_folders = asyncio.Lock()
        self.work_lock = SnapshotWorkLock()
        self.garbage = CollectGarbage(
            store,
            host,
            runner,
            events,
            _limits(settings),
            self.image_folders,
            self.work_lock.busy,
            RestoreCopies(docker_socket(settings)),
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """``sagas`` are those that a start has to undo if they were not finished."""

    forms: CompressSnapshot
    housekeeping: Housekeeping
    sagas: tuple[Saga, ...]


def housekeeping_parts(
    settings: Settings,
    store: Store,
    host: HostAgent,
    runner: SagaRunner,
    events: EventLog,
    tasks: Tasks,
    health: SnapshotHealth,
    collecting: Collecting,
    failed: Failed,
) -> Kept:
    work_lock = collecting.work_lock
    forms = CompressSnapshot(store, host, runner, events, tasks, health, work_lock)
    check = CheckIntegrity(store, host, events, health, work_lock)
    config = HousekeepingConfig(
        _hours(settings.gc_every_h),
        _hours(settings.integrity_every_h),
        FormPolicy(
            _hours(settings.compress_after_h),
            settings.unpack_after_boots or None,
            timedelta(hours=settings.unpack_within_h),
        ),
    )
    housekeeping = Housekeeping(store, collecting.garbage, forms, check, config, failed)
    return Kept(forms, housekeeping, (collecting.garbage.saga, *forms.sagas))


def _hours(hours: float) -> timedelta | None:
    """0 is never."""
    return timedelta(hours=hours) if hours else None


def _limits(settings: Settings) -> Limits:
    days = settings.snapshot_unused_days
    return Limits(
        max_active=settings.max_runtime_snapshots,
        unused_after=timedelta(days=days) if days else None,
        cache_budget_bytes=settings.cache_budget_mib << 20,
        disk_floor_bytes=settings.disk_floor_mib << 20,
    )

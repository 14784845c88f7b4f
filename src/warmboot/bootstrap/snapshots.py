"""The wiring of runtime snapshots: builds, health, demand, and the form of their memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from warmboot.bootstrap.core import Core
from warmboot.bootstrap.garbage import GarbageParts
from warmboot.bootstrap.images import ImageChecks
from warmboot.bootstrap.workers import WorkerParts
from warmboot.manager.core.background import Failed
from warmboot.manager.core.saga import Saga
from warmboot.manager.housekeeping import Housekeeping, HousekeepingConfig
from warmboot.manager.snapshots.build_image_snapshot import BuildImageSnapshot
from warmboot.manager.snapshots.build_snapshot import BuildSnapshot
from warmboot.manager.snapshots.check_integrity import CheckIntegrity
from warmboot.manager.snapshots.choose_form import FormPolicy
from warmboot.manager.snapshots.compress_snapshot import CompressSnapshot
from warmboot.manager.snapshots.plan_rebuilds import RetryPolicy
from warmboot.manager.snapshots.reconcile_snapshots import ReconcilerConfig, SnapshotReconciler
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.manager.snapshots.shape_demand import DemandPolicy
from warmboot.manager.snapshots.snapshot_health import SnapshotHealth
from warmboot.manager.snapshots.watch_demand import WatchDemand, WatchImages
from warmboot.settings import Settings


@dataclass(frozen=True, slots=True)
class SnapshotParts:
    snapshots: RuntimeSnapshots
    health: SnapshotHealth
    demand: WatchDemand
    images: WatchImages
    forms: CompressSnapshot
    reconciler: SnapshotReconciler
    housekeeping: Housekeeping
    sagas: tuple[Saga[Any, Any], ...]


def wire_snapshots(
    core: Core,
    garbage: GarbageParts,
    images: ImageChecks,
    workers: WorkerParts,
    failed: Failed,
) -> SnapshotParts:
    settings, store, host, events = core.settings, core.store, core.host, core.events
    retry = RetryPolicy(settings.rebuild_attempts, settings.rebuild_pause_s)
    build = BuildSnapshot(
        store,
        host,
        core.runner,
        events,
        images.prepare,
        settings.cold_boot_timeout_s,
        settings.warm_boot_timeout_s,
        retry,
    )
    build_with_image = BuildImageSnapshot(
        store,
        host,
        core.runner,
        events,
        settings.cold_boot_timeout_s,
        retry,
        settings.image_budget_mib << 20,
    )
    snapshots = RuntimeSnapshots(
        store,
        host,
        events,
        core.tasks,
        build,
        build_with_image,
        garbage.collect,
        default_shape=settings.default_shape,
        max_active=settings.max_runtime_snapshots,
        max_images=settings.max_image_snapshots,
        on_built=core.attention.set,
        retry=retry,
    )
    health = SnapshotHealth(store, events, lambda _: core.attention.set(), images.check.suspect)
    forms = CompressSnapshot(store, host, core.runner, events, core.tasks, health, core.admission)
    return SnapshotParts(
        snapshots,
        health,
        _demand(core, snapshots),
        _images(core, snapshots),
        forms,
        _reconciler(core, snapshots, retry, failed),
        _housekeeping(core, garbage, forms, health, workers, failed),
        (build.saga, build_with_image.saga, *forms.sagas),
    )


def _demand(core: Core, snapshots: RuntimeSnapshots) -> WatchDemand:
    settings = core.settings
    policy = DemandPolicy(settings.shape_demand_boots, settings.shape_demand_window_s)
    most = settings.max_runtime_snapshots
    return WatchDemand(core.store, core.host, core.events, snapshots, policy, most)


def _images(core: Core, snapshots: RuntimeSnapshots) -> WatchImages:
    settings = core.settings
    policy = DemandPolicy(settings.image_demand_starts, settings.image_demand_window_s)
    most = settings.max_image_snapshots
    return WatchImages(core.store, core.host, core.tasks, snapshots, policy, most)


def _reconciler(
    core: Core, snapshots: RuntimeSnapshots, retry: RetryPolicy, failed: Failed
) -> SnapshotReconciler:
    config = ReconcilerConfig(core.settings.auto_rebuild, retry)
    return SnapshotReconciler(
        core.store, core.host, core.events, snapshots, core.attention, config, failed
    )


def _housekeeping(
    core: Core,
    garbage: GarbageParts,
    forms: CompressSnapshot,
    health: SnapshotHealth,
    workers: WorkerParts,
    failed: Failed,
) -> Housekeeping:
    check = CheckIntegrity(core.store, core.host, core.events, health, core.admission)
    config = _housekeeping_config(core.settings)
    return Housekeeping(core.store, garbage.collect, forms, check, config, failed, workers.compress)


def _housekeeping_config(settings: Settings) -> HousekeepingConfig:
    return HousekeepingConfig(
        _hours(settings.gc_every_h),
        _hours(settings.integrity_every_h),
        FormPolicy(
            _hours(settings.compress_after_h),
            settings.unpack_after_boots or None,
            timedelta(hours=settings.unpack_within_h),
        ),
    )


def _hours(hours: float) -> timedelta | None:
    """0 is never."""
    return timedelta(hours=hours) if hours else None

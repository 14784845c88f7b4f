"""The wiring of what containers and engines share: how their VMs are booted, and the warm pool."""

from __future__ import annotations

from dataclasses import dataclass

from warmboot.bootstrap.core import Core
from warmboot.bootstrap.images import ImageChecks
from warmboot.bootstrap.snapshots import SnapshotParts
from warmboot.manager.folders.given_folders import shared_folders
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.metrics import ManagerMetrics, WarmPoolMetrics
from warmboot.manager.tenants.boot_tenant import BootTenant
from warmboot.manager.tenants.freeze_tenant import FreezeTenant
from warmboot.manager.tenants.pause_tenant import PauseTenant
from warmboot.manager.tenants.resume_stalled import ResumeStalled
from warmboot.manager.tenants.warm_boot import WarmBoot, WarmBootConfig
from warmboot.manager.vms.boot_vm import BootTimeouts, BootVm
from warmboot.manager.vms.warm_pool import PoolConfig, WarmPool


@dataclass(frozen=True, slots=True)
class VmParts:
    warm_pool: WarmPool
    boot: BootVm


def wire_vms(core: Core, metrics: ManagerMetrics) -> VmParts:
    settings = core.settings
    least, most = settings.pool_bounds
    config = PoolConfig(least, most, settings.pool_window_s, settings.pool_memory_percent)
    warm_pool = WarmPool(core.store, core.host, core.admission, config, metrics.failed)
    core.events.observe(warm_pool.on_event)
    core.host.give_way = warm_pool.give_way
    metrics.registry.register(WarmPoolMetrics(warm_pool.status))
    timeouts = BootTimeouts(settings.warm_boot_timeout_s, settings.cold_boot_timeout_s)
    return VmParts(warm_pool, BootVm(core.store, core.host, core.runner, warm_pool, timeouts))


@dataclass(frozen=True, slots=True)
class TenantParts:
    boot: BootTenant
    stalled: ResumeStalled
    pauses: PauseTenant
    freeze: FreezeTenant
    vms: BootVm


def wire_tenants(
    core: Core, images: ImageChecks, snapshots: SnapshotParts, vms: VmParts
) -> TenantParts:
    settings, store, host, events = core.settings, core.store, core.host, core.events
    config = WarmBootConfig(settings.default_shape, settings.snapshot_wait_s)
    health, demand = snapshots.health, snapshots.demand
    warm = WarmBoot(store, host, events, vms.boot, health, config, core.attention.set)
    boot = BootTenant(store, host, events, vms.boot, images.prepare, warm, health, demand)
    pauses = PauseTenant(store, host, events)
    stalled = ResumeStalled(store, host, events, core.tasks, pauses)
    events.observe(stalled.on_event)
    freeze = FreezeTenant(store, host, core.runner, events, pauses)
    return TenantParts(boot, stalled, pauses, freeze, vms.boot)


def wire_folders(core: Core) -> TenantFolders:
    shared = shared_folders(core.settings.shared_folders, "MANAGER_SHARED_FOLDERS")
    return TenantFolders(core.store, core.host, shared)

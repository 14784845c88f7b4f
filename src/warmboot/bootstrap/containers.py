"""The wiring of containers: the VMs that they boot, the warm pool, and who watches them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from warmboot.bootstrap.core import Core
from warmboot.bootstrap.garbage import GarbageParts
from warmboot.bootstrap.images import ImageChecks
from warmboot.bootstrap.snapshots import SnapshotParts
from warmboot.manager.containers.archives import ArchiveFiles
from warmboot.manager.containers.bring_up import BringUp
from warmboot.manager.containers.containers import Containers
from warmboot.manager.containers.host_ports import HostPorts
from warmboot.manager.containers.keep_unresponsive import KeepUnresponsive
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.manager.core.background import Failed
from warmboot.manager.tenants.boot_tenant import BootTenant
from warmboot.manager.tenants.resume_stalled import ResumeStalled
from warmboot.manager.tenants.warm_boot import WarmBoot, WarmBootConfig
from warmboot.manager.vms.boot_vm import BootTimeouts, BootVm
from warmboot.manager.vms.warm_pool import WarmPool


@dataclass(frozen=True, slots=True)
class VmParts:
    warm_pool: WarmPool
    boot: BootVm


def wire_vms(core: Core, failed: Failed) -> VmParts:
    settings = core.settings
    warm_pool = WarmPool(
        core.store, core.host, core.admission, settings.standby_vms, settings.default_shape, failed
    )
    core.events.observe(warm_pool.on_event)
    timeouts = BootTimeouts(settings.warm_boot_timeout_s, settings.cold_boot_timeout_s)
    return VmParts(warm_pool, BootVm(core.store, core.host, core.runner, warm_pool, timeouts))


@dataclass(frozen=True, slots=True)
class ContainerParts:
    containers: Containers
    archives: ArchiveFiles
    watch: WatchContainer
    stalled: ResumeStalled
    unresponsive: KeepUnresponsive


def wire_containers(
    core: Core, garbage: GarbageParts, images: ImageChecks, snapshots: SnapshotParts, vms: VmParts
) -> ContainerParts:
    settings, tasks = core.settings, core.tasks
    store, host, events = core.store, core.host, core.events
    archives = ArchiveFiles(settings.storage_root / "archives", core.uploads)
    config = WarmBootConfig(settings.default_shape, settings.snapshot_wait_s)
    attention = core.attention.set
    warm_boot = WarmBoot(store, host, events, vms.boot, snapshots.health, config, attention)
    health, demand = snapshots.health, snapshots.demand
    boot = BootTenant(store, host, events, vms.boot, images.prepare, warm_boot, health, demand)
    bring_up = BringUp(store, host, events, boot, core.admission, health, archives)

    async def remove(container_id: UUID) -> None:
        await containers.remove(container_id)

    stalled = ResumeStalled(store, host, events, tasks)
    events.observe(stalled.on_event)
    watch = WatchContainer(store, host, events, tasks, remove)
    unresponsive = KeepUnresponsive(store, host, events, tasks, watch, core.reconcile_failures)
    events.observe(unresponsive.on_event)
    containers = Containers(
        *(store, host, events, tasks, bring_up, core.admission, watch, archives, garbage.collect),
        unresponsive,
        HostPorts(store, host),
        settings.default_shape,
    )
    return ContainerParts(containers, archives, watch, stalled, unresponsive)

"""The wiring of containers."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from warmboot.bootstrap.core import Core
from warmboot.bootstrap.garbage import GarbageParts
from warmboot.bootstrap.snapshots import SnapshotParts
from warmboot.bootstrap.tenants import TenantParts
from warmboot.manager.containers.archives import ArchiveFiles
from warmboot.manager.containers.bring_up import BringUp
from warmboot.manager.containers.container_files import ContainerFiles
from warmboot.manager.containers.containers import Containers
from warmboot.manager.containers.create_container import CreateContainer
from warmboot.manager.containers.host_ports import HostPorts
from warmboot.manager.containers.keep_unresponsive import KeepUnresponsive
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.manager.folders.tenant_folders import TenantFolders


@dataclass(frozen=True, slots=True)
class ContainerParts:
    containers: Containers
    files: ContainerFiles
    archives: ArchiveFiles
    watch: WatchContainer
    unresponsive: KeepUnresponsive


def wire_containers(
    core: Core,
    garbage: GarbageParts,
    snapshots: SnapshotParts,
    tenants: TenantParts,
    folders: TenantFolders,
) -> ContainerParts:
    settings, tasks = core.settings, core.tasks
    store, host, events = core.store, core.host, core.events
    archives = ArchiveFiles(settings.storage_root / "archives", core.uploads)
    bring_up = BringUp(
        *(store, host, events, tenants.boot, core.admission, snapshots.health, archives, folders),
        snapshots.snapshots,
        snapshots.images,
    )

    async def remove(container_id: UUID) -> None:
        await containers.remove(container_id)

    watch = WatchContainer(store, host, events, tasks, remove)
    unresponsive = KeepUnresponsive(store, host, events, tasks, watch, core.reconcile_failures)
    events.observe(unresponsive.on_event)
    ports = HostPorts(store, host)
    create = CreateContainer(store, host, events, archives, ports, folders, settings.default_shape)
    containers = Containers(
        *(store, host, events, tasks, bring_up, core.admission, watch, create, garbage.collect),
        unresponsive,
        ports,
        folders,
        *(tenants.pauses, tenants.freeze, core.runner, tenants.vms, settings.max_forks),
        settings.park_exited_after_s,
    )
    files = ContainerFiles(containers.in_guest)
    return ContainerParts(containers, files, archives, watch, unresponsive)

"""The wiring of engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from warmboot.bootstrap.core import Core
from warmboot.bootstrap.garbage import GarbageParts
from warmboot.bootstrap.snapshots import SnapshotParts
from warmboot.bootstrap.tenants import TenantParts
from warmboot.manager.core.saga import Saga
from warmboot.manager.engines.bring_up_engine import BringUpEngine
from warmboot.manager.engines.engine_containers import EngineContainers
from warmboot.manager.engines.engine_disks import EngineDisks
from warmboot.manager.engines.engine_ports import EnginePorts
from warmboot.manager.engines.engine_sockets import EngineSockets
from warmboot.manager.engines.engines import Engines
from warmboot.manager.engines.keep_silent import KeepSilent
from warmboot.manager.engines.ports.own_addresses import OwnAddresses
from warmboot.manager.engines.reconcile_engines import ReconcileEngines
from warmboot.manager.engines.users.default_engines import WAKE, DefaultEngines
from warmboot.manager.engines.users.named_users import named_users
from warmboot.manager.engines.watch_engine import WatchEngine
from warmboot.manager.folders.tenant_folders import TenantFolders


@dataclass(frozen=True, slots=True)
class EngineParts:
    engines: Engines
    reconcile: ReconcileEngines
    sagas: tuple[Saga[Any, Any], ...]
    users: DefaultEngines


def wire_engines(
    core: Core,
    garbage: GarbageParts,
    snapshots: SnapshotParts,
    tenants: TenantParts,
    folders: TenantFolders,
) -> EngineParts:
    store, host, events, tasks = core.store, core.host, core.events, core.tasks
    sockets, admission = EngineSockets(host), core.admission
    containers = EngineContainers(store, host)
    disks = EngineDisks(store, host, core.settings.engine_disk_mib)

    async def remove(engine_id: UUID) -> None:
        await engines.remove(engine_id)

    watch = WatchEngine(store, host, events, tasks, sockets, remove)
    ports, addresses = EnginePorts(store, host, events, tasks), OwnAddresses(store, host)
    bring_up = BringUpEngine(
        *(store, host, events, tenants.boot, admission, snapshots.health, sockets, containers),
        *(disks, folders, ports, watch.stop),
    )
    silent = KeepSilent(store, host, events, tasks)
    for observer in (watch.on_event, ports.on_event, silent.on_event):
        events.observe(observer)
    engines = Engines(
        *(store, host, events, tasks, bring_up, admission, watch, sockets, ports, addresses),
        *(containers, disks, folders, garbage.collect, tenants.freeze, tenants.pauses, core.runner),
        tenants.vms,
        core.settings.default_shape,
        core.settings.max_forks,
    )
    users = DefaultEngines(
        host, engines, named_users(core.settings.engine_users, "MANAGER_ENGINE_USERS")
    )

    async def answer(call: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return await (users if call == WAKE else ports).answer(call, given)

    host.front.serve_calls, host.front.on_lost = answer, ports.drop_reservations
    reconcile = ReconcileEngines(
        *(store, host, events, engines, watch, tenants.stalled, sockets, ports, addresses, silent),
        core.reconcile_failures,
        users,
        tenants.pauses,
        folders,
    )
    return EngineParts(engines, reconcile, (engines.forks.saga, engines.parks.saga), users)

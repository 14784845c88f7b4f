"""What parking does with engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

from warmboot.host.agent import HostAgent
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.engines.bring_up_engine import BringUpEngine
from warmboot.manager.engines.engine_ports import EnginePorts
from warmboot.manager.engines.engine_sockets import EngineSockets
from warmboot.manager.engines.keep_silent import unresponsive_key
from warmboot.manager.engines.moments import noted_of
from warmboot.manager.engines.watch_engine import WatchEngine
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.vms.slots import slot_of
from warmboot.model.container import PortMapping
from warmboot.model.runtime_snapshot import ANSWERED
from warmboot.model.tenants.engine import Engine, EngineState
from warmboot.model.vm import VmRecord


class EngineParking:
    """Implements ``parking.Parking`` and ``park_by_policy.Uses``."""

    def __init__(
        self,
        host: HostAgent,
        tasks: Tasks,
        bring_up: BringUpEngine,
        watch: WatchEngine,
        ports: EnginePorts,
        sockets: EngineSockets,
        folders: TenantFolders,
    ) -> None:
        self._host = host
        self._tasks = tasks
        self._bring_up = bring_up
        self._watch = watch
        self._ports = ports
        self._sockets = sockets
        self._folders = folders

    async def note(self, tenant: Engine) -> Mapping[str, Any]:
        answered = [asdict(one) for one in self._ports.answered(tenant)]
        return {**noted_of(tenant), ANSWERED: answered}

    async def unused_s(self, tenants: Sequence[Engine]) -> Mapping[UUID, float]:
        """As the front has seen; who is not there is taken for used."""
        found = await self._host.front.unused_s()
        return {one.id: found[str(one.id)] for one in tenants if str(one.id) in found}

    def ports(self, tenant: Engine, noted: Mapping[str, Any]) -> Sequence[PortMapping]:
        if (answered := noted.get(ANSWERED)) is not None:
            return [PortMapping(**one) for one in answered]
        # Parked by an earlier release, or without its moment: all that it may have had.
        led = [one.mapping for one in tenant.ports if one.mapping.host_ip]  # else it never was
        own = [replace(one, host_ip=tenant.address) for one in led] if tenant.address else []
        return list(dict.fromkeys([*led, *own]))

    async def let_go(self, tenant: Engine) -> None:
        await self._watch.stop(tenant.id)  # or it takes the end for a failure
        await self._tasks.cancel(unresponsive_key(tenant.id))  # so does this
        await self._ports.stop(tenant.id)

    async def lead(self, tenant: Engine, record: VmRecord) -> Mapping[str, Any]:
        await self._folders.serve(tenant, record)
        await self._host.vms.lead_to_host(record.id, slot_of(record), tenant.spec.host_ports)
        # Before it is told that it runs: whoever hears of it finds the socket.
        await self._sockets.show(
            replace(tenant, state=EngineState.RUNNING, vm_id=record.id, error=None)
        )
        return {}

    async def runs(self, tenant: Engine, record: VmRecord) -> None:
        await self._bring_up.publish_ports(tenant.id, record.id)

    async def show(self, tenant: Engine) -> None:
        await self._sockets.show_if_possible(tenant)

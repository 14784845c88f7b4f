"""What parking does with containers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmboot.host.agent import HostAgent
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.vms.slots import slot_of
from warmboot.model.container import Container, PortMapping
from warmboot.model.vm import VmRecord


class ContainerParking:
    """Implements ``parking.Parking``."""

    def __init__(self, host: HostAgent, watch: WatchContainer, folders: TenantFolders) -> None:
        self._host = host
        self._folders = folders
        self._watch = watch

    async def note(self, tenant: Container) -> Mapping[str, Any]:
        return {}

    def ports(self, tenant: Container, noted: Mapping[str, Any]) -> Sequence[PortMapping]:
        return tenant.ports

    async def let_go(self, tenant: Container) -> None:
        await self._watch.stop(tenant.id)  # or it takes the end for a failure

    async def lead(self, tenant: Container, record: VmRecord) -> Mapping[str, Any]:
        await self._folders.serve(tenant, record)
        return {"ports": await self._host.vms.publish(slot_of(record), tenant.ports)}

    async def show(self, tenant: Container) -> None:
        """Nobody serves it."""

    async def runs(self, tenant: Container, record: VmRecord) -> None:
        self._watch.start(tenant.id)

"""What parking does with containers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from warmboot.host.agent import HostAgent
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.vms.slots import slot_of
from warmboot.model.container import Container, PortMapping
from warmboot.model.errors import VmGone
from warmboot.model.vm import VmRecord


class ContainerParking:
    """Implements ``parking.Parking`` and ``park_by_policy.Uses``."""

    def __init__(self, host: HostAgent, watch: WatchContainer, folders: TenantFolders) -> None:
        self._host = host
        self._folders = folders
        self._watch = watch

    async def note(self, tenant: Container) -> Mapping[str, Any]:
        return {}

    async def unused_s(self, tenants: Sequence[Container]) -> Mapping[UUID, float]:
        """Its sessions, and who reads its log."""
        return {one.id: 0.0 if self._is_used(one) else math.inf for one in tenants}

    def _is_used(self, container: Container) -> bool:
        try:
            link = self._host.vms.link(container.vm_id or "")
        except VmGone:
            return True
        return not (link.sessions.is_empty and link.readers.is_empty)

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

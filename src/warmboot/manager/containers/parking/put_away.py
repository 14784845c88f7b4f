"""Parks the VMs of exited containers, and wakes them: as those that run, but nobody sees it.

The container is ``exited`` all the time. What tells that its VM is parked is that it has none
(``Container.is_put_away``); its lease is on the moment. Its log is copied out before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog

from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.tenants.park_tenant import ParkTenant
from warmboot.manager.tenants.parking import Park, Parking, ParkNotes
from warmboot.manager.tenants.pause_tenant import to_be_put_away
from warmboot.model.container import Container, PortMapping
from warmboot.model.errors import DiskFull, WarmbootError
from warmboot.model.vm import VmRecord
from warmboot.system.disks import os_error

log = structlog.get_logger(__name__)

COPY_TIMEOUT_S = 120.0
"""How long its log may take to be copied out."""


class ExitedParking(Parking[Container]):
    """An exited container has no ports, and nobody watches it."""

    def __init__(self, folders: TenantFolders) -> None:
        self._folders = folders

    async def note(self, tenant: Container) -> Mapping[str, Any]:
        return {}

    def ports(self, tenant: Container, noted: Mapping[str, Any]) -> Sequence[PortMapping]:
        return ()

    async def let_go(self, tenant: Container) -> None: ...

    async def lead(self, tenant: Container, record: VmRecord) -> Mapping[str, Any]:
        await self._folders.serve(tenant, record)
        return {}

    async def runs(self, tenant: Container, record: VmRecord) -> None: ...

    async def show(self, tenant: Container) -> None: ...


class PutAway(ParkTenant[Container]):
    """``park`` and ``wake`` take containers that have exited."""

    WORK = "put-away"

    async def park(self, tenant: Container, **how: Any) -> None:
        vm_id = self._vm_of(tenant)
        await self._host.storage.ensure_room()  # before the log takes what is left
        await self._keep_output(tenant, vm_id)
        # What it has written is on its disk then: that can be booted where its memory cannot go on.
        await self._host.vms.link(vm_id).sync()
        await super().park(tenant, **how)

    async def _keep_output(self, container: Container, vm_id: str) -> None:
        """Without that, who wants to read it wakes its VM: its log may be too long, or such that
        Docker does not give it back, or comes a byte at a time: others wait for their turn."""
        docker = self._host.vms.link(vm_id).docker
        chunks = docker.output(container.docker_id or "", tty=container.spec.tty, timestamps=True)
        try:
            async with asyncio.timeout(COPY_TIMEOUT_S), contextlib.aclosing(chunks):
                await self._host.vms.kept_output.keep(container.id, chunks)
        except DiskFull:
            raise
        except TimeoutError:
            log.info(f"The log of {container.name} was not copied out in {COPY_TIMEOUT_S:g} s")
        except WarmbootError as error:
            log.info(f"The log of {container.name} was not copied out: {error.brief}")
        except OSError as error:
            raise os_error(error) from error

    # -- as it differs from those that run -----------------------------------------------------

    async def _begin(self, _: ParkNotes, park: Park[Container]) -> None:
        """Nobody is told: it is exited before, meanwhile and afterwards."""

    async def _runs_on(self, tenant_id: UUID, _: ParkNotes | None) -> None: ...

    async def _not_woken(self, tenant: Container) -> None:
        if (await self._tenants.get(tenant.id)).vm_id is None:  # else it was cancelled then
            await super()._not_woken(tenant)

    async def _settle(self, tenant: Container, lost: set[str]) -> bool:
        """What an earlier manager has left of a VM goes: it has done nothing."""
        if tenant.is_put_away:
            await self._end_vm(tenant)
        return tenant.is_put_away

    def _vm_of(self, tenant: Container) -> str:
        return to_be_put_away(tenant)

    def _is_parked(self, tenant: Container) -> bool:
        return tenant.is_put_away

    async def _set_state(self, tenant_id: UUID, state: str, **changes: Any) -> None:
        changes.pop("error", None)  # of its program
        if changes:
            await self._store.containers.update(tenant_id, **changes)

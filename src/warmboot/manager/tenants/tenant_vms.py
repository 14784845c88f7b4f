"""What becomes of a tenant's VM: given back whole, or, if the tenant stays, but for its disk."""

from __future__ import annotations

from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.retry_until_stored import retry_until_stored
from warmboot.manager.vms.slots import slot_of
from warmboot.model.errors import WarmbootError
from warmboot.model.vm import VmKind
from warmboot.store import Store

log = structlog.get_logger(__name__)


class TenantVms:
    """Gives back what the VMs of tenants of one ``kind`` had."""

    def __init__(self, store: Store, host: HostAgent, kind: VmKind) -> None:
        self._store = store
        self._host = host
        self._kind = kind

    async def forget(self, tenant_id: UUID) -> None:
        """Give back what the tenant's VM had, but for its disk. Idempotent."""
        for record in await self._store.vms.of_owner(tenant_id):
            await self._host.vms.destroy(record.id, slot_of(record), keep_folder=True)
            await self._store.vms.update(record.id, handle=None, slot=None)

    async def lost(self, tenant_id: UUID, error: WarmbootError) -> None:
        """Log why the tenant has failed, and ``forget`` its VM as far as that is possible."""
        log.error(f"{self._kind.capitalize()} {tenant_id} failed: {error.brief}")
        what = f"the failure of {self._kind} {tenant_id}"
        try:
            await retry_until_stored(what, lambda: self.forget(tenant_id))
        except (WarmbootError, OSError) as trouble:
            # Its record stays: the next start or removal gives back what is left of the VM.
            log.error("a dead VM was not cleared away", of=str(tenant_id), error=str(trouble))

    async def give_back(self, tenant_id: UUID) -> None:
        """Give back all that the tenant's VM had, with its disk and its boot log. Idempotent."""
        for record in await self._store.vms.of_owner(tenant_id):
            await self._host.vms.destroy(record.id, slot_of(record))
            await self._store.vms.remove(record.id)
        await self._host.vms.let_go(str(tenant_id))
        await self._store.snapshots.release(str(tenant_id))
        await self._host.vms.boot_logs.forget(tenant_id)

    async def boot_log(self, tenant_id: UUID) -> bytes:
        """What the tenant's guest has said on its console, also if its VM is gone."""
        logs = self._host.vms.boot_logs
        for record in await self._store.vms.of_owner(tenant_id):
            if text := await logs.of_vm(record.id):
                return text
        return await logs.kept(tenant_id)

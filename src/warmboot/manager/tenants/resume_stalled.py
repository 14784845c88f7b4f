"""Reports VMs that are stalled because the host's disk is full, and resumes them when it has space.

    running ──a write finds no room──▶ stalled ──room, by itself or by whoever frees some──▶ running
                    TENANT.stalled                           TENANT.resumed

The tenant keeps its state, as nothing of it is lost; meanwhile its ``error`` says what to do.
One task a tenant's VM waits, from its boot or its adoption until its end. What is told goes by
another: the database may be on the same disk, and letting the VM run on waits for no write. A VM
that stalls before Docker has answered fails its boot instead: there is nothing in it to be kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import retry_until_stored
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.tenants.pause_tenant import PauseTenant
from warmboot.model.errors import DiskFull, NotFound, VmGone
from warmboot.model.journal.event import Event
from warmboot.model.tenants.boot import Tenant
from warmboot.model.vm import VmKind
from warmboot.store import Store

log = structlog.get_logger(__name__)

Tell = Callable[[], Awaitable[None]]

_BOOTED = {
    f"{kind}.{what}": kind
    for kind in (VmKind.CONTAINER, VmKind.ENGINE)
    for what in ("booted", "woken")
}


class ResumeStalled:
    """``on_event`` is an observer of the event log; ``adopt`` is for VMs that were there before."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        tasks: Tasks,
        pauses: PauseTenant,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._tasks = tasks
        self._pauses = pauses

    def on_event(self, event: Event) -> None:
        if (kind := _BOOTED.get(event.kind)) is not None:
            self.watch(kind, UUID(event.subject_id), event.data["vm_id"])

    async def adopt(self, tenant: Tenant, vm_id: str) -> None:
        """A VM that another manager has left: it may run on, or stand still, by now."""
        if tenant.error is not None:
            await self._store.tenants(tenant.kind).update(tenant.id, error=None)
        self.watch(tenant.kind, tenant.id, vm_id)

    def watch(self, kind: VmKind, tenant_id: UUID, vm_id: str) -> None:
        """Watch a tenant's VM until its end."""
        self._tasks.keep_going(
            Work.RESUME_STALLED, f"stalled {vm_id}", lambda: self._watch(kind, tenant_id, vm_id)
        )

    async def _watch(self, kind: VmKind, tenant_id: UUID, vm_id: str) -> None:
        who = f"{kind} {tenant_id}"
        with contextlib.suppress(VmGone):  # its end is told by others
            while True:
                await self._host.vms.wait_stalled(vm_id)
                log.error(f"{who.capitalize()} is stalled: the disk is full", vm=vm_id)
                watch = Stopwatch()
                self._store_soon(who, vm_id, partial(self._stalled, kind, tenant_id, vm_id))
                await self._host.vms.resume_stalled(vm_id)
                log.info(f"{who.capitalize()} goes on after {watch.elapsed_s:.2f}s")
                resumed = partial(self._resumed, kind, tenant_id, watch.elapsed_s)
                self._store_soon(who, vm_id, resumed)
                with contextlib.suppress(NotFound):  # it has been removed
                    tenant = await self._store.tenants(kind).get(tenant_id)
                    await self._pauses.set_clock(tenant, vm_id)

    def _store_soon(self, who: str, vm_id: str, tell: Tell) -> None:
        """In the order of what happened, as soon as the database takes it."""

        async def store() -> None:
            await retry_until_stored(f"what {who} does", tell)

        self._tasks.keep_going(Work.RESUME_STALLED, f"stalled-report {vm_id}", store)

    async def _resumed(self, kind: VmKind, tenant_id: UUID, stood_still_s: float) -> None:
        async with self._events.transaction() as emit:
            await self._store.tenants(kind).update(tenant_id, error=None)
            await emit(f"{kind}.resumed", tenant_id, seconds=round(stood_still_s, 4))

    async def _stalled(self, kind: VmKind, tenant_id: UUID, vm_id: str) -> None:
        stalled = DiskFull(
            f"the disk is full: the {kind} is stalled",
            details=f"its VM {vm_id} could not write to its disk; nothing is lost",
            resolution="free some space below MANAGER_STORAGE_ROOT (`warmboot gc`, `warmboot rm`, "
            "`warmboot snapshot rm`): it then continues automatically",
        )
        async with self._events.transaction() as emit:
            await self._store.tenants(kind).update(tenant_id, error=stalled.as_dict())
            await emit(f"{kind}.stalled", tenant_id, error=stalled.as_dict())

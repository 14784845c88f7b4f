"""Boots a tenant's VM: warm if a snapshot serves, else cold, and notes how it went.

    warm boot (see warm_boot) ─────────────────┐
       │ no version, or none that works        ▼
       ▼                                 Docker has answered: noted, told
    cold boot, reason ─────────────────────────┘

It may be called again for a tenant that another manager began with: what is there is used.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.admission import BootTicket
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.images.check_image import PrepareImage
from warmboot.manager.snapshots.snapshot_health import SnapshotHealth
from warmboot.manager.snapshots.watch_demand import WatchDemand
from warmboot.manager.tenants.warm_boot import WarmBoot, Warmed
from warmboot.manager.vms.boot_vm import BootVm, Onlooker, with_second_try
from warmboot.manager.vms.slots import slot_of
from warmboot.model.errors import HostError, SnapshotDamaged, WarmbootError
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.tenants.boot import BootMethod, BootPolicy, FallbackReason, Tenant
from warmboot.model.vm import VmRecord
from warmboot.store import Store
from warmboot.system.disks import os_error

log = structlog.get_logger(__name__)

_NOBODY = Onlooker()

UNBOOTED: dict[str, Any] = {
    "error": None,
    "vm_id": None,
    "boot_method": None,
    "boot_s": None,
    "stages": (),
    "fallback_reason": None,
    "fallback_details": "",
    "snapshot_version": None,
    "boot_attempts": (),
}
"""What is known of a tenant's boot before it: nothing."""


class BootTenant:
    """Call it with a tenant that is ``creating``."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        boot: BootVm,
        prepare: PrepareImage,
        warm: WarmBoot,
        health: SnapshotHealth,
        demand: WatchDemand,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._boot = boot
        self._prepare = prepare
        self._warm = warm
        self._health = health
        self._demand = demand

    async def __call__(
        self,
        tenant: Tenant,
        watch: Stopwatch,
        ticket: BootTicket,
        *,
        fresh: bool,
        onlooker: Onlooker = _NOBODY,
    ) -> tuple[VmRecord, Warmed | None]:
        """A VM in which Docker has answered; and what is to be counted, if that was a success.

        ``fresh``: it was created just now, and nothing of it can be there. ``onlooker`` is told of
        each VM that is booted for it.
        """
        for record in () if fresh else await self._store.vms.of_owner(tenant.id):
            if record.handle is not None:
                await self._adopted(tenant, record)
                return record, None  # an earlier manager booted it
            await self._expect(tenant, FallbackReason.KEEPS_DISK)
            image = await self._prepare(await self._image(tenant))
            kept = await self._boot.again(tenant, image, record, watch, ticket, onlooker)
            await self._booted(tenant, kept, watch, FallbackReason.KEEPS_DISK)
            return kept, None
        image = await self._image(tenant)
        if (parked := None if fresh else await self._parked_in(tenant)) is not None:
            await self._expect(tenant, FallbackReason.KEEPS_DISK)
            prepared = await self._prepare(image)
            record = await self._boot.cold(
                tenant, prepared, watch, ticket, onlooker, parked, holds=True
            )
            await self._booted(tenant, record, watch, FallbackReason.KEEPS_DISK)
            return record, None
        if tenant.snapshot_id is not None:
            return await self._from_moment(tenant, image, tenant.snapshot_id, watch, ticket)
        try:
            outcome = await self._warm(tenant, image, watch, ticket, onlooker)
        finally:
            ticket.booted()
        if isinstance(outcome, Warmed):
            await self._booted(tenant, outcome.record, watch, None, snapshot=outcome.snapshot)
            return outcome.record, outcome
        if outcome.reason is not FallbackReason.REQUESTED:
            why = ": ".join(part for part in (outcome.reason.phrase, outcome.details) if part)
            log.warning(
                f"Warm boot failed for {tenant.kind} {tenant.id}, falling back to cold boot: {why}"
            )
        await self._expect(tenant, outcome.reason, outcome.details)
        await self.tell(tenant, "boot", reason=outcome.reason, details=outcome.details)
        prepared = await self._prepare(image)
        record = await with_second_try(
            lambda: self._boot.cold(tenant, prepared, watch, ticket, onlooker)
        )
        await self._booted(tenant, record, watch, outcome.reason, outcome.details)
        if outcome.reason is FallbackReason.SHAPE_MISMATCH:
            await self._demand.missed(image.id, tenant.shape)
        return record, None

    async def _parked_in(self, tenant: Tenant) -> RuntimeSnapshot | None:
        """What has the disk of one that has no VM, but has run: its VM could not be woken."""
        if tenant.started_at is None:
            return None
        for snapshot_id in await self._store.snapshots.leased_by(str(tenant.id)):
            snapshot = await self._store.snapshots.get(snapshot_id)
            if not snapshot.is_version:
                return snapshot
        return None

    async def _from_moment(
        self,
        tenant: Tenant,
        image: RuntimeImage,
        snapshot_id: UUID,
        watch: Stopwatch,
        ticket: BootTicket,
    ) -> tuple[VmRecord, Warmed | None]:
        """It goes on from there, or fails: nothing else is what was asked for.

        There is no onlooker: what is connected before it is its own self is hung up then.
        """
        snapshot = await self._store.snapshots.get(snapshot_id)
        if tenant.boot is BootPolicy.COLD:
            ticket.booted()
            reason = FallbackReason.REQUESTED
            await self._expect(tenant, reason)
            await self.tell(tenant, "boot", reason=reason, details="")
            prepared = await self._prepare(image)
            record = await self._boot.cold(tenant, prepared, watch, ticket, _NOBODY, snapshot)
            await self._booted(tenant, record, watch, reason)
            return record, None
        began_s = watch.elapsed_s
        try:
            record = await self._boot.warm(tenant, image, snapshot, watch, ticket, _NOBODY)
        except SnapshotDamaged as error:
            error.resolution = "freeze an engine again: nothing rebuilds this one"
            await self._health.failed(snapshot, error)
            raise
        finally:
            ticket.booted()
        await self._booted(tenant, record, watch, None, snapshot=snapshot)
        return record, Warmed(record, snapshot, watch.elapsed_s - began_s)

    async def clear_away(self, tenant: Tenant) -> None:
        """Give back what its VM had. Idempotent.

        One that has run before keeps its disk, and with it the lease on what is under it.
        """
        keep, left = tenant.started_at is not None, False
        for record in await self._store.vms.of_owner(tenant.id):
            try:
                await self._host.vms.destroy(record.id, slot_of(record), keep_folder=keep)
            except (HostError, OSError) as trouble:
                # Its record stays: the next start or removal gives back what is left of the VM.
                log.error("a VM was not cleared away", vm=record.id, error=str(trouble))
                left = True
                continue
            if keep:
                left = True
                await self._store.vms.update(record.id, handle=None, slot=None)
            else:
                await self._store.vms.remove(record.id)
        if not left and not keep:
            await self._store.snapshots.release(str(tenant.id))

    async def tell(self, tenant: Tenant, stage: str, **data: object) -> None:
        await self._events.emit(f"{tenant.kind}.stage", tenant.id, stage=stage, **data)

    async def _expect(self, tenant: Tenant, reason: FallbackReason, details: str = "") -> None:
        """Note why it boots cold before it does: a later manager may find the VM ready."""
        await self._store.tenants(tenant.kind).update(
            tenant.id, fallback_reason=reason, fallback_details=details
        )

    async def _adopted(self, tenant: Tenant, record: VmRecord) -> None:
        """Catch up on what an earlier manager was killed before it noted: the boot was done."""
        if tenant.vm_id == record.id:
            return
        method = BootMethod.WARM if tenant.fallback_reason is None else BootMethod.COLD
        snapshot_id = record.snapshot_id if method is BootMethod.WARM else None
        snapshot = None if snapshot_id is None else await self._store.snapshots.get(snapshot_id)
        await self._store.tenants(tenant.kind).update(
            tenant.id,
            vm_id=record.id,
            boot_method=method,
            runtime_snapshot_id=snapshot_id,
            snapshot_version=None if snapshot is None else snapshot.version,
            shape=record.spec.shape,
        )
        await self._events.emit(
            f"{tenant.kind}.booted",
            tenant.id,
            vm_id=record.id,
            boot_method=method,
            reason=tenant.fallback_reason,
        )
        if snapshot is not None:
            await self._health.succeeded(snapshot)

    async def _image(self, tenant: Tenant) -> RuntimeImage:
        assert tenant.runtime_image_id is not None
        return await self._store.images.get(tenant.runtime_image_id)

    async def _booted(
        self,
        tenant: Tenant,
        record: VmRecord,
        watch: Stopwatch,
        reason: FallbackReason | None,
        details: str = "",
        snapshot: RuntimeSnapshot | None = None,
    ) -> None:
        method = BootMethod.WARM if reason is None else BootMethod.COLD
        took = watch.elapsed_s
        log.info(
            f"{tenant.kind.capitalize()} {tenant.id} VM created: {record.id} via {method} boot "
            f"in {took:.2f}s"
        )
        async with self._events.transaction() as emit:
            await self._store.tenants(tenant.kind).update(
                tenant.id,
                vm_id=record.id,
                boot_method=method,
                fallback_reason=reason,
                fallback_details=details,
                runtime_snapshot_id=snapshot.id if snapshot else None,
                snapshot_version=snapshot.version if snapshot else None,
                shape=record.spec.shape,
                boot_s=round(took, 4),
                stages=watch.stages,
            )
            await emit(
                f"{tenant.kind}.booted",
                tenant.id,
                vm_id=record.id,
                boot_method=method,
                reason=reason,
                seconds=round(took, 4),
                stages=watch.event_data,
                shape=[record.spec.shape.vcpus, record.spec.shape.memory_mib],
                snapshot=str(snapshot.id) if snapshot else None,
                version=snapshot.version if snapshot else None,
                depth=snapshot.depth if snapshot else None,
                cold_boot_s=snapshot.metadata.get("cold_boot_s") if snapshot else None,
            )


def in_words(error: Exception) -> WarmbootError:
    """Why a tenant could not be brought up, for its owner."""
    if isinstance(error, WarmbootError):
        return error
    if isinstance(error, OSError):
        return os_error(error)
    return WarmbootError(
        "something unexpected went wrong in warmboot",
        details=repr(error),
        resolution="try again; if it happens again, report it with the lines of the log",
    )

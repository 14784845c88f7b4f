"""Parks a running container or engine: its memory goes to the disk, and its VM ends. Wakes it.

    park   parking ─▶ moment ─▶ parked ─▶ its VM is ended, its ports are held
    saga   stored     frozen,   stored
                      it stays
                      still
    wake   waking ─▶ a VM goes on from the moment ─▶ running

What fails before ``parked`` is stored takes back all of it, and the VM runs on; the next manager
does that if this one is killed. From then on the VM is of no interest: whoever finds it ends it.
The moment is what has all of a parked one, its disk, too. It is nobody else's (deleted, as that of
a fork), and kept by the tenant's lease: the only one that a parked tenant has. A wake that fails
leaves the tenant parked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.network import Slot
from warmboot.manager.core.admission import BootAdmission
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import retry_until_stored
from warmboot.manager.core.saga import Saga, SagaRunner, Step
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.tenants.freeze_tenant import FreezeTenant
from warmboot.manager.tenants.parking import (
    WAKES_AT_START,
    Park,
    Parking,
    ParkNotes,
    nothing_against_it,
)
from warmboot.manager.tenants.pause_tenant import PauseTenant, called, command_of, to_be_frozen
from warmboot.manager.tenants.tenant_locks import TenantLocks
from warmboot.manager.vms.boot_vm import BootVm
from warmboot.manager.vms.slots import slot_of
from warmboot.model.container import ContainerState
from warmboot.model.errors import (
    Conflict,
    DiskFull,
    HostError,
    IllegalTransition,
    NotFound,
    SnapshotDamaged,
    Unavailable,
    VmGone,
    WarmbootError,
)
from warmboot.model.runtime_snapshot import (
    Depth,
    RuntimeSnapshot,
    SnapshotState,
    requirements_of,
)
from warmboot.model.snapshot_fit import fit_of_ready
from warmboot.model.tenants.boot import Tenant
from warmboot.model.tenants.engine import EngineState
from warmboot.model.vm import VmKind, VmRecord
from warmboot.store import Store
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=Tenant)

AROUND_PARKED = ("parking", "parked", "waking")

_DEPTHS = {VmKind.CONTAINER: Depth.CONTAINER, VmKind.ENGINE: Depth.ENGINE}


class ParkTenant(Generic[T]):
    """``park`` and ``wake`` are called with the tenant's lock held."""

    WORK = "park"

    def __init__(
        self,
        kind: VmKind,
        store: Store,
        host: HostAgent,
        runner: SagaRunner,
        events: EventLog,
        garbage: CollectGarbage,
        freeze: FreezeTenant,
        pauses: PauseTenant,
        boot: BootVm,
        admission: BootAdmission,
        locks: TenantLocks,
        parking: Parking[T],
    ) -> None:
        self._kind = kind
        self._store = store
        self._host = host
        self._runner = runner
        self._events = events
        self._garbage = garbage
        self._freezes = freeze
        self._pauses = pauses
        self._boot = boot
        self._admission = admission
        self._locks = locks
        self._parking = parking
        self.saga = Saga(
            f"{self.WORK}-{kind}",
            ParkNotes,
            Step("parking", self._begin, self._runs_on),
            Step("moment", self._freeze, self._forget),
            Step("parked", self._parked),
        )

    # -- park ----------------------------------------------------------------------------------

    async def park(
        self,
        tenant: T,
        *,
        wakes_at_start: bool = False,
        check: Callable[[], Awaitable[None]] = nothing_against_it,
    ) -> None:
        """``Conflict`` unless it runs; its memory is on the disk, and free, when this returns.
        What ``check`` raises is the last chance to have it run on (see ``Park``)."""
        watch, notes = Stopwatch(), ParkNotes(uuid4(), self._vm_of(tenant), wakes_at_start)
        try:
            async with on_failure(lambda: self._not_parked(tenant.id)):
                await self._runner.run(self.saga, tenant.id, notes, Park(tenant, check))
        except WarmbootError as error:
            if not await self._was_parked(tenant.id):
                raise
            # That was the last word: only the journal does not have it, and is read at a start.
            log.error(f"the park of {self._kind} {tenant.id} was not journaled", why=str(error))

        async def end() -> None:
            await self._end_vm(tenant)
            await self._garbage.collect_released()  # what it was parked in before

        await retry_until_stored(f"that the VM of {self._kind} {tenant.id} has ended", end)
        log.info(f"{self._kind.capitalize()} {tenant.id} was parked in {watch.elapsed_s:.2f}s")

    async def _not_parked(self, tenant_id: UUID) -> None:
        """Its undo has given up what could not be stored, and nobody else looks at it again."""
        what = f"that {self._kind} {tenant_id} runs"
        await retry_until_stored(what, lambda: self._runs_on(tenant_id, None))
        await self._show(tenant_id)

    async def _was_parked(self, tenant_id: UUID) -> bool:
        what = f"{self._kind} {tenant_id}"
        with contextlib.suppress(NotFound):
            found = await retry_until_stored(what, lambda: self._tenants.get(tenant_id))
            return self._is_parked(found)
        return False

    async def _end_vm(self, tenant: T) -> None:
        await self._parking.let_go(tenant)
        for record in await self._store.vms.of_owner(tenant.id):
            with contextlib.suppress(OSError):  # a full disk; the VM has to go all the same
                await self._host.vms.boot_logs.keep(tenant.id, record.id)
            await self._hold_ports(tenant, slot_of(record))
            await self._host.vms.destroy(record.id, slot_of(record))
            await self._store.vms.remove(record.id)
        await self._hold_ports(tenant)
        await self._show(tenant.id)

    async def _hold_ports(self, tenant: T, slot: Slot | None = None) -> None:
        wake, noted = partial(self.wake_parked, tenant.id), await self._noted(tenant)
        await self._host.vms.hold(str(tenant.id), self._parking.ports(tenant, noted), wake, slot)

    async def _noted(self, tenant: T) -> Mapping[str, Any]:
        """The metadata of what it is parked in."""
        noted: dict[str, Any] = {}
        for snapshot_id in await self._store.snapshots.leased_by(str(tenant.id)):
            noted |= (await self._store.snapshots.get(snapshot_id)).metadata
        return noted

    async def wakes_at_start(self, tenant: T) -> bool:
        """Whether it is parked until the manager's next start, and no longer."""
        return self._is_parked(tenant) and bool((await self._noted(tenant)).get(WAKES_AT_START))

    async def _show(self, tenant_id: UUID) -> None:
        with contextlib.suppress(NotFound):
            await self._parking.show(await self._tenants.get(tenant_id))

    async def _begin(self, _: ParkNotes, park: Park[T]) -> None:
        tenant = park.tenant
        async with self._events.transaction() as emit:
            await self._set_state(tenant.id, "parking")
            await emit(f"{self._kind}.parking", tenant.id)
        await self._show(tenant.id)  # who comes now is woken for, and not cut off with the rest

    async def _runs_on(self, tenant_id: UUID, _: ParkNotes | None) -> None:
        with contextlib.suppress(NotFound):
            if (await self._tenants.get(tenant_id)).state != "parking":
                return
            async with self._events.transaction() as emit:
                await self._set_state(tenant_id, "running")
                await emit(f"{self._kind}.unparked", tenant_id)

    async def _freeze(self, notes: ParkNotes, park: Park[T]) -> None:
        tenant = park.tenant

        async def note() -> Mapping[str, Any]:
            noted = await self._parking.note(await self._tenants.get(tenant.id))
            return {**noted, WAKES_AT_START: True} if notes.wakes_at_start else noted

        depth = _DEPTHS[self._kind]
        await self._freezes(tenant, notes.moment_id, None, depth, note, stays=True)

    async def _forget(self, tenant_id: UUID, notes: ParkNotes) -> None:
        """The VM goes on, and the moment goes, unless it was the last word."""
        with contextlib.suppress(NotFound):
            tenant = await self._tenants.get(tenant_id)
            if notes.moment_id in await self._store.snapshots.leased_by(str(tenant_id)):
                return
            if tenant.vm_id == notes.vm_id:  # else it was parked since then
                with contextlib.suppress(VmGone):
                    record = await self._store.vms.get(notes.vm_id)
                    await self._host.vms.go_on(record)
                    await self._pauses.set_clock(tenant, record.id)
        with contextlib.suppress(NotFound, IllegalTransition):  # there is none
            await self._store.snapshots.set_state(notes.moment_id, SnapshotState.DELETED)
            await self._events.emit("runtime-snapshot.deleted", notes.moment_id)
        await self._garbage.collect_released()

    async def _parked(self, notes: ParkNotes, park: Park[T]) -> None:
        tenant, moment_id = park.tenant, notes.moment_id
        holder = str(tenant.id)
        await park.check()
        moment = await self._store.snapshots.get(moment_id)
        async with self._events.transaction() as emit:
            await self._store.snapshots.release(holder)
            await self._store.snapshots.lease(moment_id, holder)
            await self._store.snapshots.set_state(moment_id, SnapshotState.DELETED)
            await self._set_state(tenant.id, "parked", vm_id=None)
            await emit("runtime-snapshot.deleted", moment_id)
            await emit(f"{self._kind}.parked", tenant.id, stored_bytes=moment.stored_bytes)

    # -- wake ----------------------------------------------------------------------------------

    async def wake(self, tenant: T) -> None:
        """Have it go on where it was; ``Conflict`` unless it is parked. It stays so if that fails:
        ``MemoryFull``, ``SnapshotDamaged``, ``HostError``."""
        if not self._is_parked(tenant):
            raise Conflict(f"{called(tenant)} is not parked", details=f"it is {tenant.state}")
        watch, moment = Stopwatch(), await self._moment(tenant)
        await self._check_fits(tenant, moment)
        await self._host.ensure_memory(tenant.shape)
        await self._end_vm(tenant)  # the former one, if it could not be ended
        async with self._events.transaction() as emit:
            await self._set_state(tenant.id, "waking")
            await emit(f"{self._kind}.waking", tenant.id)
        async with on_failure(lambda: self._parked_again(tenant)):
            record = await self._restored(tenant, moment, watch)
            await self._goes_on(tenant, record, watch)
        await self._runs(tenant, record)
        log.info(f"{self._kind.capitalize()} {tenant.id} woke in {watch.elapsed_s:.2f}s")

    async def wake_parked(self, tenant_id: UUID) -> None:
        """For who wants something of it, without the lock: one that runs is left alone."""
        async with self._locks.hold(tenant_id):
            tenant = await self._tenants.get(tenant_id)
            if tenant.state != "running":
                await self._locks.refuse_removed(tenant, self.wake(tenant))

    async def _restored(self, tenant: T, moment: RuntimeSnapshot, watch: Stopwatch) -> VmRecord:
        assert tenant.runtime_image_id is not None
        image = await self._store.images.get(tenant.runtime_image_id)
        ticket = self._admission.boot()
        try:
            await ticket.prepare()
            return await self._boot.parked(tenant, image, moment, watch, ticket)
        except SnapshotDamaged as error:
            error.resolution = "bring its files back from a backup: nothing rebuilds them"
            raise
        finally:
            ticket.over()

    async def _goes_on(self, tenant: T, record: VmRecord, watch: Stopwatch) -> None:
        self._host.vms.give_to(slot_of(record), str(tenant.id))
        changes = await self._parking.lead(tenant, record)
        told = {"vm_id": record.id, "seconds": round(watch.elapsed_s, 4)}

        async def store() -> None:
            async with self._events.transaction() as emit:
                await self._set_state(tenant.id, "running", vm_id=record.id, error=None, **changes)
                await emit(f"{self._kind}.woken", tenant.id, **told)

        await retry_until_stored(f"that {self._kind} {tenant.id} runs", store)

    async def _runs(self, tenant: T, record: VmRecord) -> None:
        """That is the last word: whatever becomes of this, its VM runs on."""
        try:
            await self._parking.runs(tenant, record)
        finally:
            try:
                await self._host.vms.let_go(str(tenant.id))
            except HostError as error:
                log.error(f"ports of {self._kind} {tenant.id} were not given back", why=str(error))

    async def _parked_again(self, tenant: T) -> None:
        """What has run since then has not: nobody was told of it."""
        what = f"that {self._kind} {tenant.id} is parked"
        with contextlib.suppress(NotFound, IllegalTransition):  # it is being removed
            await retry_until_stored(what, lambda: self._not_woken(tenant))
            await self._show(tenant.id)

    async def _not_woken(self, tenant: T) -> None:
        if (await self._tenants.get(tenant.id)).state == "running":  # it was cancelled then
            for record in await self._store.vms.of_owner(tenant.id):
                await self._runs(tenant, record)
            return
        try:
            await self._end_vm(tenant)
        except (DiskFull, Unavailable):
            raise
        except (WarmbootError, OSError) as error:  # the next wake does it, before anything else
            log.error(f"The VM of {self._kind} {tenant.id} was not ended", why=str(error))
        async with self._events.transaction() as emit:
            await self._set_state(tenant.id, "parked")
            await emit(f"{self._kind}.wake-failed", tenant.id)

    async def _moment(self, tenant: T) -> RuntimeSnapshot:
        for snapshot_id in await self._store.snapshots.leased_by(str(tenant.id)):
            return await self._store.snapshots.get(snapshot_id)
        raise HostError(
            f"{called(tenant)} has lost what it was parked in",
            resolution=f"only its removal is left: `{command_of(tenant)} rm -f {tenant.name}`",
        )

    async def _check_fits(self, tenant: T, moment: RuntimeSnapshot) -> None:
        here = (await self._host.probe()).host
        agent = moment.metadata.get("agent_version")
        fit = fit_of_ready(requirements_of(moment), agent, here)
        if not fit.usable:
            raise Conflict(
                f"{called(tenant)} was parked on a host that was another, and cannot go on here",
                details=fit.why,
                resolution="bring back what it was parked on, and wake it then: it is kept",
            )

    # -- at the start --------------------------------------------------------------------------

    async def settle(self, tenant: T, lost: set[str]) -> bool:
        """Have it be parked, or run, if it was to be so; whether it is parked, or woken, now."""
        async with self._locks.hold(tenant.id):
            return await self._settle(tenant, lost)

    async def _settle(self, tenant: T, lost: set[str]) -> bool:
        if tenant.state == "parking":  # its operation is no more
            await self._runs_on(tenant.id, None)
        if tenant.state == "parked":
            await self._end_vm(tenant)
        if tenant.state == "waking":
            await self._settle_waking(tenant, lost)
        return tenant.state in ("parked", "waking")

    async def _settle_waking(self, tenant: T, lost: set[str]) -> None:
        """One whose VM runs may have done something already that is not to be done twice."""
        for record in await self._store.vms.of_owner(tenant.id):
            silent = self._host.vms.unresponsive(record.id) is not None
            if record.handle is not None and record.id not in lost and not silent:
                async with on_failure(lambda: self._parked_again(tenant)):
                    await self._goes_on(tenant, record, Stopwatch())
                await self._runs(tenant, record)
                return
        await self._parked_again(tenant)

    # -- inside --------------------------------------------------------------------------------

    def _vm_of(self, tenant: T) -> str:
        """The VM to be parked, or why that cannot be."""
        return to_be_frozen(tenant)

    def _is_parked(self, tenant: T) -> bool:
        return tenant.state == "parked"

    @property
    def _tenants(self) -> Any:
        return self._store.tenants(self._kind)

    async def _set_state(self, tenant_id: UUID, state: str, **changes: Any) -> None:
        states: Any = EngineState if self._kind is VmKind.ENGINE else ContainerState
        await self._tenants.set_state(tenant_id, states(state), **changes)

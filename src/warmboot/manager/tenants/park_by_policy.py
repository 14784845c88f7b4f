"""Parks those that ask for it: when nobody uses them, or while the manager is not there.

    running ──nobody uses it for long enough──▶ parked, until somebody wants something of it
    running ──stop──▶ parked, to be woken at the start ──start──▶ running
                          │
                          └─ woken, parked again or removed by hand: that counts

What is under way with one when the manager stops is waited for first. The machine may be about to
stop as well, and does not wait for ever: those whose turn does not come, or whose park is not done
in time, run on, as does one that cannot be parked.

Idle is who takes next to no processor time, while nothing is asked of it, and nobody is connected
to its published ports. It is looked at once more when it stands still, before it is parked for
good: whoever came meanwhile is not cut off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.admission import GUESTS_AT_ONCE
from warmboot.manager.core.background import Failed, Work, one_round
from warmboot.manager.core.idle_clock import ActivitySample, IdleClock, look_every_s
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.tenants.park_tenant import ParkTenant
from warmboot.manager.tenants.pause_tenant import called
from warmboot.manager.tenants.tenant_locks import TenantLocks
from warmboot.manager.vms.slots import slot_of
from warmboot.model.errors import (
    Conflict,
    DiskFull,
    NotFound,
    NotSupported,
    RowUnreadable,
    Unavailable,
    VmGone,
    WarmbootError,
)
from warmboot.model.tenants.boot import Tenant
from warmboot.model.usage import ForwardedConnections
from warmboot.model.vm import VmKind
from warmboot.store import Store
from warmboot.system.concurrency import some_at_once

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=Tenant)
T_contra = TypeVar("T_contra", bound=Tenant, contravariant=True)

AT_SHUTDOWN_S, UNDOING_S = 300.0, 60.0
"""How long the manager's stop waits for parks, and for those to be undone that are not done."""

AT_ONCE = 2
"""Parks mostly wait for the disk."""

BUSY_CPU_SHARE = 0.1
"""Of one CPU: a VM in which nothing happens takes up to 0.06 where its CPUs are emulated."""

LONGEST_LOOK_S = 5.0
"""The kernel forgets a connection that was reset after 10 s."""

_MAY_RUN = ("creating", "running", "paused", "parking", "waking")

Held = Callable[[UUID], AbstractAsyncContextManager[Any]]
"""A tenant as it is when its lock is ours, and what was under way with it is done."""


class Uses(Protocol[T_contra]):
    """How those of one kind are used, beside their ports."""

    async def unused_s(self, tenants: Sequence[T_contra]) -> Mapping[UUID, float]:
        """For how many seconds nobody has asked anything of each; 0 while somebody does."""
        ...


@dataclass(slots=True)
class _Watched:
    vm_id: str
    clock: IdleClock
    connected: ForwardedConnections


class ParkByPolicy(Generic[T]):
    """``start`` when all is reconciled, ``stop`` when nobody can ask for anything any more.

    For tenants of one kind.
    """

    def __init__(
        self,
        kind: VmKind,
        store: Store,
        host: HostAgent,
        tasks: Tasks,
        parks: ParkTenant[T],
        locks: TenantLocks,
        held: Held,
        uses: Uses[T],
    ) -> None:
        self.kind = kind
        self._store = store
        self._tenants: Any = store.tenants(kind)
        self._host = host
        self._tasks = tasks
        self._parks = parks
        self._locks = locks
        self._held = held
        self._uses = uses
        self._watched: dict[UUID, _Watched] = {}
        self._to_wake: set[str] = set()
        # Each goes on with what it had to do: all at once they would not answer in time.
        self._waking = asyncio.Semaphore(GUESTS_AT_ONCE)
        self._stopping = False

    # -- at shutdown ---------------------------------------------------------------------------

    async def stop(self) -> None:
        await self._wake_no_more()
        left: dict[UUID, T] = {
            one.id: one
            for one in await self._tenants.list()
            if one.spec.park_at_shutdown and one.state in _MAY_RUN
        }

        turns = asyncio.Semaphore(AT_ONCE)

        async def park(tenant: T) -> None:
            try:
                await self._park_until_start(tenant, turns)
            except (WarmbootError, OSError) as error:  # the others are parked all the same
                log.error(f"{tenant.name} was not parked, and runs on", why=str(error))
            del left[tenant.id]

        try:
            async with asyncio.timeout(AT_SHUTDOWN_S):
                await some_at_once(len(left), park, list(left.values()))
        except TimeoutError:
            names = sorted(one.name for one in left.values())
            log.error("there was no time to park these, which run on", names=names)

    async def _wake_no_more(self) -> None:
        """Who has not been woken since the start stays as it was parked: one that came to run when
        those to be parked are known would be lost with the machine."""
        self._stopping = True
        for key in self._to_wake:
            await self._tasks.cancel(key)
        self._to_wake.clear()

    async def _park_until_start(self, tenant: T, turns: asyncio.Semaphore) -> None:
        # What is under way with it may take long, and is no turn: others are parked meanwhile.
        async with self._held(tenant.id) as found, turns:
            # One that is paused is refused: that it is lost with the machine is told.
            if found.state in ("running", "paused") and found.vm_id is not None:
                park = self._parks.park(found, wakes_at_start=True)
                await self._locks.refuse_removed(found, park)

    async def start(self) -> None:
        self._stopping = False
        for tenant in await self._tenants.list():
            if await self._is_to_wake(tenant):
                key = f"wake-at-start {tenant.id}"
                self._to_wake.add(key)
                self._tasks.keep_going(Work.WAKE_AT_START, key, partial(self._wake, tenant.id))

    async def _is_to_wake(self, tenant: T) -> bool:
        try:
            return await self._parks.wakes_at_start(tenant)
        except (NotFound, RowUnreadable) as error:  # no reason not to serve all others
            log.error(
                f"{tenant.name} is not woken: what it is parked in is not known", why=str(error)
            )
            return False

    async def _wake(self, tenant_id: UUID) -> None:
        async with self._waking, self._locks.hold(tenant_id):
            tenant: T = await self._tenants.get(tenant_id)
            if self._stopping or not await self._parks.wakes_at_start(tenant):
                return  # somebody has woken it meanwhile, and perhaps parked it
            try:
                await self._locks.refuse_removed(tenant, self._parks.wake(tenant))
            except (DiskFull, Unavailable):  # the database's, which says nothing of it
                raise
            except WarmbootError as error:
                log.error(f"{tenant.name} was not woken, and stays parked", why=str(error))

    # -- when they are idle --------------------------------------------------------------------

    async def keep_parking(self, failed: Failed) -> None:
        """Without end."""
        while True:
            found = one_round(Work.PARK_IDLE, self._round(failed), failed)
            await asyncio.sleep(await found or LONGEST_LOOK_S)  # nothing tells of idleness

    async def _round(self, failed: Failed) -> float:
        """Look at those that ask for it; when to do so again."""
        wanted: list[Any] = [
            one
            for one in await self._tenants.list()
            if one.spec.park_after_idle_s and one.state == "running" and one.vm_id
        ]
        for gone in self._watched.keys() - {one.id for one in wanted}:
            del self._watched[gone]
        if not wanted:
            return LONGEST_LOOK_S
        unused_s = await self._uses.unused_s(wanted)
        for tenant in wanted:
            look = self._look_and_park(tenant, unused_s.get(tenant.id, 0.0))
            await one_round(Work.PARK_IDLE, look, failed)
        return min(look_every_s(one.spec.park_after_idle_s, LONGEST_LOOK_S) for one in wanted)

    async def _look_and_park(self, tenant: Any, unused_s: float) -> None:
        try:
            idle_s = await self._look(tenant, unused_s)
            if idle_s >= tenant.spec.park_after_idle_s:
                del self._watched[tenant.id]  # what fails is tried as late again
                await self._park_idle(tenant)
        except (NotFound, VmGone):
            """It has ended, or was removed meanwhile."""

    async def _look(self, tenant: Any, unused_s: float) -> float:
        """For how long it has been idle."""
        now_s, cpu_s = time.monotonic(), self._host.cpu_s(tenant.vm_id)
        if cpu_s is None:
            raise VmGone(f"the VM of {called(tenant)} is gone")
        connected = await self._connections(tenant)
        sample = ActivitySample(now_s, cpu_s, now_s - unused_s)
        watched = self._watched.get(tenant.id)
        if watched is None or watched.vm_id != tenant.vm_id:
            clock = IdleClock(sample, BUSY_CPU_SHARE)
            self._watched[tenant.id] = _Watched(tenant.vm_id, clock, connected)
            return 0.0
        if _came(watched.connected, connected) or self._locks.is_held(tenant.id):
            sample = ActivitySample(now_s, cpu_s, now_s)
        watched.connected = connected
        return watched.clock.see(sample)

    async def _connections(self, tenant: Any) -> ForwardedConnections:
        return await self._host.vms.connections(slot_of(await self._store.vms.get(tenant.vm_id)))

    async def _park_idle(self, tenant: Any) -> None:
        before = await self._connections(tenant)
        used = False

        async def check() -> None:
            nonlocal used
            unused_s = (await self._uses.unused_s([tenant])).get(tenant.id, 0.0)
            came = _came(before, await self._connections(tenant))
            used = came or unused_s < tenant.spec.park_after_idle_s
            if used:
                raise Conflict(f"{called(tenant)} is used again")

        async with self._held(tenant.id) as found:
            if found.state != "running" or found.vm_id != tenant.vm_id:
                return
            try:
                await check()
                await self._locks.refuse_removed(found, self._parks.park(found, check=check))
            except (Conflict, NotSupported) as error:  # which is no failure of ours
                told = log.info if used else log.warning
                told(f"{tenant.name} was not parked: {error.brief}", details=error.details)


def _came(before: ForwardedConnections, now: ForwardedConnections) -> bool:
    """Whether somebody is connected, or has been since then."""
    return now.any_open or bool(now.known - before.known)

"""Parks those that ask for it when the manager stops, and wakes them when it starts.

    running ──stop──▶ parked, to be woken at the start ──start──▶ running
                          │
                          └─ woken, parked again or removed by hand: that counts

What is under way with one when the manager stops is waited for first. The machine may be about to
stop as well, and does not wait for ever: those whose turn does not come, or whose park is not done
in time, run on, as does one that cannot be parked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

import structlog

from warmboot.manager.core.background import Work
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.tenants.park_tenant import ParkTenant
from warmboot.manager.tenants.tenant_locks import TenantLocks
from warmboot.model.errors import DiskFull, Unavailable, WarmbootError
from warmboot.model.tenants.boot import Tenant
from warmboot.system.concurrency import some_at_once

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=Tenant)

AT_SHUTDOWN_S, UNDOING_S = 300.0, 60.0
"""How long the manager's stop waits for parks, and for those to be undone that are not done."""

AT_ONCE = 2
"""Parks mostly wait for the disk."""

_MAY_RUN = ("creating", "running", "parking", "waking")

Held = Callable[[UUID], AbstractAsyncContextManager[Any]]
"""A tenant as it is when its lock is ours, and what was under way with it is done."""


class ParkByPolicy(Generic[T]):
    """``start`` when all is reconciled, ``stop`` when nobody can ask for anything any more.

    ``tenants`` are the store's of one kind.
    """

    def __init__(
        self, tenants: Any, tasks: Tasks, parks: ParkTenant[T], locks: TenantLocks, held: Held
    ) -> None:
        self._tenants = tenants
        self._tasks = tasks
        self._parks = parks
        self._locks = locks
        self._held = held

    # -- at shutdown ---------------------------------------------------------------------------

    async def stop(self) -> None:
        left: dict[UUID, T] = {
            one.id: one
            for one in await self._tenants.list()
            if one.spec.park_at_shutdown and one.state in _MAY_RUN
        }

        async def park(tenant: T) -> None:
            try:
                await self._park_until_start(tenant)
            except WarmbootError as error:
                log.error(f"{tenant.name} was not parked, and runs on", why=str(error))
            del left[tenant.id]

        try:
            async with asyncio.timeout(AT_SHUTDOWN_S):
                await some_at_once(AT_ONCE, park, list(left.values()))
        except TimeoutError:
            names = sorted(one.name for one in left.values())
            log.error("there was no time to park these, which run on", names=names)

    async def _park_until_start(self, tenant: T) -> None:
        async with self._held(tenant.id) as found:
            if found.state == "running" and found.vm_id is not None:
                park = self._parks.park(found, wakes_at_start=True)
                await self._locks.refuse_removed(found, park)

    async def start(self) -> None:
        for tenant in await self._tenants.list():
            if await self._parks.wakes_at_start(tenant):
                key = f"wake-at-start {tenant.id}"
                self._tasks.keep_going(Work.WAKE_AT_START, key, partial(self._wake, tenant.id))

    async def _wake(self, tenant_id: UUID) -> None:
        async with self._locks.hold(tenant_id):
            tenant: T = await self._tenants.get(tenant_id)
            if not await self._parks.wakes_at_start(tenant):
                return  # somebody has woken it meanwhile, and perhaps parked it
            try:
                await self._locks.refuse_removed(tenant, self._parks.wake(tenant))
            except (DiskFull, Unavailable):  # the database's, which says nothing of it
                raise
            except WarmbootError as error:
                log.error(f"{tenant.name} was not woken, and stays parked", why=str(error))

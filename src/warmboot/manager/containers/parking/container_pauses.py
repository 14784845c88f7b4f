"""Containers that stand still, in memory or on the disk, and go on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

from warmboot.host.agent import HostAgent
from warmboot.manager.containers.bring_up import bring_up_key
from warmboot.manager.containers.container_states import check_runs
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.tenants.park_by_policy import ParkByPolicy, Uses
from warmboot.manager.tenants.park_tenant import ParkTenant
from warmboot.manager.tenants.pause_tenant import PauseTenant
from warmboot.manager.tenants.tenant_locks import TenantLocks
from warmboot.model.container import Container
from warmboot.model.vm import VmKind
from warmboot.store import Store


class ContainerPauses:
    """The part of ``Containers`` that pauses and parks them."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        tasks: Tasks,
        locks: TenantLocks,
        pauses: PauseTenant,
        parks: ParkTenant[Container],
        uses: Uses[Container],
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._locks = locks
        self._pauses = pauses
        self.parks = parks
        self.by_policy = ParkByPolicy(
            VmKind.CONTAINER, store, host, tasks, parks, locks, self._settled, uses
        )

    async def pause(self, ref: str) -> None:
        async with self._held(ref) as container:
            await self._locks.refuse_removed(container, self._pauses.pause(container))

    async def unpause(self, ref: str) -> None:
        async with self._held(ref) as container:
            await self._locks.refuse_removed(container, self._pauses.unpause(container))

    async def park(self, ref: str) -> None:
        async with self._held(ref) as container:
            check_runs(container)
            await self._locks.refuse_removed(container, self.parks.park(container))

    async def wake(self, ref: str) -> None:
        async with self._held(ref) as container:
            await self._wake(container)

    async def _wake(self, container: Container) -> None:
        await self._locks.refuse_removed(container, self.parks.wake(container))

    @contextlib.asynccontextmanager
    async def _held(self, ref: str) -> AsyncIterator[Container]:
        """As it is when its lock is ours."""
        container = await self._store.containers.find(ref)
        async with self._locks.hold(container.id):
            yield await self._store.containers.get(container.id)

    @contextlib.asynccontextmanager
    async def _settled(self, container_id: UUID) -> AsyncIterator[Container]:
        """The same of one that is perhaps still being started."""
        await self._tasks.ended(bring_up_key(container_id))
        async with self._held(str(container_id)) as container:
            yield container

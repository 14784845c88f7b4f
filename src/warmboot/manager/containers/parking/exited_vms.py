"""The VMs of exited containers: after a while without use each is parked, and woken for who asks.

What is used is not parked: a log that is read, files that are copied, a session. Who asks for
something else keeps it for as long as if it had just exited.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.containers.parking.put_away import PutAway
from warmboot.manager.core.background import Failed, Work, one_round
from warmboot.manager.tenants.tenant_locks import TenantLocks
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import (
    Conflict,
    HostError,
    IllegalTransition,
    NotFound,
    NotSupported,
    VmGone,
)
from warmboot.store import Store

log = structlog.get_logger(__name__)

LONGEST_PAUSE_S = 5.0
"""Between two looks at them."""


class ExitedVms:
    def __init__(
        self,
        store: Store,
        host: HostAgent,
        locks: TenantLocks,
        parks: PutAway,
        after_s: float,
    ) -> None:
        self._store = store
        self._host = host
        self._locks = locks
        self.parks = parks
        self._after_s = after_s
        self._used_s: dict[UUID, float] = {}
        self._kept = set[UUID]()
        """Until they run again: their VMs cannot be parked."""

    async def wake(self, container_id: UUID) -> None:
        """Have an exited container's VM be there, for a while at least; the lock is not held.

        It is waited for: who finds the VM that is just being parked is cut off with that.
        """
        async with self._locks.hold(container_id):
            await self.woken(await self._store.containers.get(container_id))
            self._used_s[container_id] = time.monotonic()

    async def woken(self, container: Container) -> Container:
        """The container, with its VM if that was parked. The lock is held."""
        if not container.is_put_away:
            return container
        await self._locks.refuse_removed(container, self.parks.wake(container))
        with contextlib.suppress(OSError):  # it goes with the container, then
            await self._host.vms.kept_output.forget(container.id)
        return await self._store.containers.get(container.id)

    async def woken_or_failed(self, container: Container) -> Container:
        """The same for who starts it: one that cannot be woken has failed, and is booted on its
        disk. ``MemoryFull``, ``DiskFull``: that would fail as well."""
        try:
            return await self.woken(container)
        except (Conflict, HostError) as error:
            log.warning(
                f"Container {container.id} boots on its disk: its VM was not woken: {error.brief}",
                details=error.details,
            )
            return await self._store.containers.set_state(container.id, ContainerState.FAILED)

    async def put_away(self, container_id: UUID, unused_s: float = math.inf) -> None:
        """Park its VM, unless that is in use, was used after ``unused_s``, or it runs again."""
        async with self._locks.hold(container_id):
            container = await self._store.containers.get(container_id)
            used_since = self._used_s.get(container_id, 0.0) > unused_s
            if not self._can_be_put_away(container) or used_since:
                return
            if await self._host.vms.is_alive(container.vm_id or ""):  # else a start finds that
                await self._locks.refuse_removed(container, self.parks.park(container))

    async def keep_putting_away(self, failed: Failed) -> None:
        """Without end; at once with an ``after_s`` of 0, which is never."""
        seen_s: dict[UUID, float] = {}
        while self._after_s:
            await one_round(Work.PUT_AWAY_EXITED, self._round(seen_s, failed), failed)
            await asyncio.sleep(min(self._after_s / 4, LONGEST_PAUSE_S))

    async def _round(self, seen_s: dict[UUID, float], failed: Failed) -> None:
        found = await self._store.containers.list((ContainerState.EXITED,))
        waiting = {one.id for one in found if self._can_be_put_away(one)} - self._kept
        self._kept &= {one.id for one in found}
        for known in (seen_s, self._used_s):
            for gone in known.keys() - {one.id for one in found}:
                del known[gone]
        for in_use in seen_s.keys() - waiting:
            del seen_s[in_use]
        for container_id in waiting:
            now_s = time.monotonic()
            since_s = max(
                seen_s.setdefault(container_id, now_s), self._used_s.get(container_id, 0.0)
            )
            if now_s - since_s >= self._after_s:
                seen_s[container_id] = now_s  # what fails is tried as late again
                await one_round(Work.PUT_AWAY_EXITED, self._try(container_id, now_s), failed)

    async def _try(self, container_id: UUID, now_s: float) -> None:
        if self._locks.is_held(container_id):  # by who may take long: the others do not wait
            return
        try:
            await self.put_away(container_id, now_s)
        except NotFound:
            """It was removed meanwhile."""
        except IllegalTransition:
            raise
        except (Conflict, NotSupported) as error:  # as it will be the next time
            self._kept.add(container_id)
            log.warning(
                f"Container {container_id} keeps its VM: {error.brief}", details=error.details
            )

    def _can_be_put_away(self, container: Container) -> bool:
        if container.state is not ContainerState.EXITED or container.spec.auto_remove:
            return False
        if container.vm_id is None or not container.answering:
            return False
        if self._host.vms.unresponsive(container.vm_id) is not None:
            return False
        try:
            link = self._host.vms.link(container.vm_id)
        except VmGone:
            return False
        return link.sessions.is_empty and link.readers.is_empty

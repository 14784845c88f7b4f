"""One lock per tenant: only one operation at a time works on what runs in its VM.

A removal waits for it as everybody does, but tells whoever holds it that what he does is in vain:
a guest that hangs, or a stop with an hour's grace, does not keep it waiting.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from warmboot.manager.tenants.pause_tenant import called
from warmboot.model.errors import NotFound
from warmboot.model.tenants.boot import Tenant
from warmboot.system.concurrency import race


@dataclass(slots=True)
class _Lock:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    in_vain: asyncio.Event = field(default_factory=asyncio.Event)


class TenantLocks:
    """The locks of all tenants, kept only while the manager runs."""

    def __init__(self) -> None:
        self._locks: defaultdict[UUID, _Lock] = defaultdict(_Lock)

    def is_held(self, tenant_id: UUID) -> bool:
        """Whether somebody is at work on it, who may take long."""
        held = self._locks.get(tenant_id)
        return held is not None and held.lock.locked()

    @asynccontextmanager
    async def hold(self, tenant_id: UUID) -> AsyncIterator[None]:
        async with self._locks[tenant_id].lock:
            yield

    @asynccontextmanager
    async def hold_for_removal(self, tenant_id: UUID) -> AsyncIterator[None]:
        """The removal's: what is done ``unless_removed`` ends now."""
        held = self._locks[tenant_id]
        held.in_vain.set()
        async with held.lock:
            yield
        self._locks.pop(tenant_id, None)

    async def unless_removed(self, tenant_id: UUID, work: Coroutine[Any, Any, None]) -> bool:
        """Do what may take as long as a guest likes, while the lock is held; whether it was done.

        False if it was ended because the tenant is to be removed.
        """
        done, _ = await race(work, self._locks[tenant_id].in_vain.wait())
        if done is None:
            return False
        done.result()
        return True

    async def refuse_removed(self, tenant: Tenant, work: Coroutine[Any, Any, None]) -> None:
        """Do it ``unless_removed``; ``NotFound`` if it was ended."""
        if not await self.unless_removed(tenant.id, work):
            raise NotFound(f"{called(tenant)} is being removed")

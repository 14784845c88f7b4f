"""Waiting for tenants, also for those that are removed meanwhile."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from warmboot.manager.core.event_log import EventLog
from warmboot.model.errors import NotFound
from warmboot.model.tenants.boot import Tenant

T = TypeVar("T", bound=Tenant)
T_co = TypeVar("T_co", bound=Tenant, covariant=True)

_MOST = 1000


class Repository(Protocol[T_co]):
    """The tenants of one kind that the store has."""

    async def find(self, reference: str) -> T_co: ...

    async def get(self, tenant_id: UUID, /) -> T_co: ...


class RemovedTenants(Generic[T]):
    """The last tenants of a repository that were removed, each as it was at its end."""

    def __init__(self, repository: Repository[T], events: EventLog) -> None:
        self._repository = repository
        self._events = events
        self._by_id: OrderedDict[UUID, T] = OrderedDict()

    def add(self, tenant: T) -> None:
        self._by_id[tenant.id] = tenant
        while len(self._by_id) > _MOST:
            self._by_id.popitem(last=False)

    def find(self, ref: str) -> T | None:
        """The removed tenant with this id or name; of several, the last."""
        for tenant in reversed(self._by_id.values()):
            if ref in (str(tenant.id), tenant.name):
                return tenant
        return None

    async def wait(self, ref: str, reached: Callable[[T], bool], timeout_s: float) -> T:
        """The tenant when it has ``reached`` something, when it was removed, or after so long."""
        try:
            found = await self._repository.find(ref)
        except NotFound:
            if (removed := self.find(ref)) is None:
                raise
            return removed
        if reached(found):
            return found

        async def look() -> T | None:
            try:
                tenant = await self._repository.get(found.id)
            except NotFound:
                if (removed := self._by_id.get(found.id)) is None:
                    raise
                return removed
            return tenant if reached(tenant) else None

        held = await self._events.wait_for(look, timeout_s, found.id)
        return held or await self._repository.get(found.id)

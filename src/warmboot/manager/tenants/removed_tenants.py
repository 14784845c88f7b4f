"""The last tenants that were removed, for those who were waiting for them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar
from uuid import UUID

from warmboot.model.tenants.boot import Tenant

T = TypeVar("T", bound=Tenant)

_MOST = 1000


class RemovedTenants(Generic[T]):
    """Each as it was at its end."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[UUID, T] = OrderedDict()

    def add(self, tenant: T) -> None:
        self._by_id[tenant.id] = tenant
        while len(self._by_id) > _MOST:
            self._by_id.popitem(last=False)

    def get(self, tenant_id: UUID) -> T | None:
        return self._by_id.get(tenant_id)

    def find(self, ref: str) -> T | None:
        """The removed tenant with this id or name; of several, the last."""
        for tenant in reversed(self._by_id.values()):
            if ref in (str(tenant.id), tenant.name):
                return tenant
        return None

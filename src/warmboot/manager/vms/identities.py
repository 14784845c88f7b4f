"""What a tenant's VM is to be: the same at its boot and whenever it is told again."""

from __future__ import annotations

from warmboot.host.guest.guest_link import Identity
from warmboot.model.tenants.boot import Tenant


def identity_of(tenant: Tenant, token: str) -> Identity:
    return Identity(hostname=tenant.host_name, machine_id=tenant.id.hex, token=token)

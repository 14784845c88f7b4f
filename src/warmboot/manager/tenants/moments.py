"""The moment of a VM in use, kept for those who go on from it."""

from __future__ import annotations

from uuid import UUID

from warmboot.model.errors import Conflict, NotFound
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.store import Store


async def begun_from(store: Store, moment: RuntimeSnapshot, tenant_id: UUID) -> None:
    """Keep it for one that was just added. ``NotFound`` if it was removed meanwhile."""
    try:
        await store.snapshots.lease(moment.id, str(tenant_id))
    except Conflict as error:
        raise NotFound(f"the snapshot {moment.name or moment.id} was removed") from error

"""Snapshots that are rebuilt: made necessary, and waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from tests.support.managers import Manager

from warmboot.model.journal.event import Event
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.tenants.boot import FallbackReason


async def ready(manager: Manager, **wanted: Any) -> RuntimeSnapshot:
    """The snapshot that is ready and has the attributes ``wanted``."""

    async def look() -> RuntimeSnapshot | None:
        for snapshot in await manager.snapshots.list():
            fits = all(getattr(snapshot, name) == value for name, value in wanted.items())
            if snapshot.state is SnapshotState.READY and fits:
                return snapshot
        return None

    return await manager.until(look, f"a snapshot with {wanted} is ready")


async def successor_of(manager: Manager, old: RuntimeSnapshot) -> RuntimeSnapshot:
    """The snapshot that has taken the place of ``old``."""

    async def look() -> RuntimeSnapshot | None:
        for snapshot in await manager.snapshots.list():
            if snapshot.id != old.id and snapshot.state is SnapshotState.READY:
                return snapshot
        return None

    return await manager.until(look, f"a successor of {old.id}")


async def event(manager: Manager, kind: str, subject: object = None) -> Event:
    """The last event of its kind, once there is one."""

    async def look() -> Event | None:
        for one in reversed(await manager.services.events.list(limit=1000)):
            if one.kind == kind and subject in (None, UUID(one.subject_id)):
                return one
        return None

    return await manager.until(look, kind)


async def spoil(manager: Manager) -> RuntimeSnapshot:
    """A snapshot that has become unhealthy."""
    snapshot = await manager.snapshot()
    (Path(snapshot.snapshot_path) / "snapshot.state").unlink()
    container = await manager.run("spoiled")
    assert container.fallback_reason is FallbackReason.SNAPSHOT_DAMAGED
    await manager.containers.delete("spoiled", force=True)
    return snapshot

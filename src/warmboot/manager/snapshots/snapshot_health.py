"""The health of snapshots: counts a boot when Docker in the guest has answered, or has not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import structlog

from warmboot.manager.core.event_log import EventLog
from warmboot.model.errors import IllegalTransition, NotFound, SnapshotDamaged, WarmbootError
from warmboot.model.runtime_snapshot import UNHEALTHY_AFTER, RuntimeSnapshot, SnapshotState
from warmboot.store import Store

log = structlog.get_logger(__name__)


class SnapshotHealth:
    """``on_unhealthy`` is called with the snapshot's id: it is to be rebuilt. ``suspect`` is called
    with the id of the image that a damaged one was made from, with which it shares a file."""

    def __init__(
        self,
        store: Store,
        events: EventLog,
        on_unhealthy: Callable[[UUID], None],
        suspect: Callable[[UUID], Awaitable[None]],
    ) -> None:
        self._store = store
        self._events = events
        self._on_unhealthy = on_unhealthy
        self._suspect = suspect

    async def succeeded(self, snapshot: RuntimeSnapshot, boot_s: float | None = None) -> None:
        """``boot_s``: from the choice of this version until Docker has answered."""
        await self._store.snapshots.record_success(snapshot.id, datetime.now(UTC), boot_s)

    async def failed(self, snapshot: RuntimeSnapshot, error: WarmbootError) -> None:
        """Count a failure; three in a row, or one that damage explains, make it unhealthy."""
        if isinstance(error, SnapshotDamaged):
            await self._suspect(snapshot.runtime_image_id)
        try:
            now = await self._store.snapshots.record_failure(
                snapshot.id, error.as_dict(), datetime.now(UTC)
            )
        except NotFound:  # deleted meanwhile, and forgotten
            return
        if isinstance(error, SnapshotDamaged) or now.consecutive_failures >= UNHEALTHY_AFTER:
            await self._set_unhealthy(now, error)

    async def _set_unhealthy(self, snapshot: RuntimeSnapshot, error: WarmbootError) -> None:
        told = error.as_dict()
        try:
            async with self._events.transaction() as emit:
                # Rebuilds that failed for another cause say nothing about this one.
                await self._store.snapshots.set_state(
                    snapshot.id,
                    SnapshotState.UNHEALTHY,
                    error=told,
                    rebuild_failures=0,
                    rebuild_not_before=None,
                    rebuild_put_off_by=None,
                )
                if isinstance(error, SnapshotDamaged):
                    await emit("runtime-snapshot.damaged", snapshot.id, error=told)
                await emit("runtime-snapshot.unhealthy", snapshot.id, error=told)
        except (IllegalTransition, NotFound):  # another boot was first, or it was deleted meanwhile
            return
        log.warning(
            f"Runtime snapshot {snapshot.id} is unhealthy: {error.brief}",
            consecutive_failures=snapshot.consecutive_failures,
        )
        self._on_unhealthy(snapshot.id)

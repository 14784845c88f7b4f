"""Rebuilds that the manager began by itself and that failed: counted in the database, with the time
before which no other begins. So neither a restart nor a crash makes it try more often.

Only what speaks against the snapshot is counted: a full disk or a damaged runtime image puts a
rebuild off, however often.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import retry_until_stored
from warmboot.manager.core.saga import L, N, Step
from warmboot.manager.snapshots.plan_rebuilds import RetryPolicy
from warmboot.model.errors import (
    DiskFull,
    HostError,
    IllegalTransition,
    ImageDamaged,
    NotFound,
    Unavailable,
    WarmbootError,
)
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.store import Store

log = structlog.get_logger(__name__)

NO_VERDICT = (DiskFull, ImageDamaged, Unavailable)
"""These errors say nothing about the snapshot that was to be built: its time will come."""

_LEAST_ROOM_BYTES = 1 << 20


def with_room(host: HostAgent, step: Step[N, L]) -> Step[N, L]:
    """What goes wrong in this step on a disk that is filled to its floor does so because of that:
    ``DiskFull``."""

    async def do(notes: N, live: L) -> None:
        try:
            await step.do(notes, live)
        except HostError as error:
            try:
                host.storage.check_room(_LEAST_ROOM_BYTES)
            except DiskFull as full:
                details = f"{full.details}; what could not go on: {error.brief}"
                raise DiskFull(full.brief, details=details, resolution=full.resolution) from error
            raise

    return replace(step, do=do)


async def note_failure(
    store: Store,
    events: EventLog,
    policy: RetryPolicy,
    snapshot: RuntimeSnapshot,
    error: WarmbootError,
) -> None:
    """Note the failure of a build, and tell it: the snapshot is unhealthy, or gone if it
    was a rebuild. It has no files, and so lies on nothing.
    """
    log.error(f"Runtime snapshot {snapshot.id} could not be built: {error.brief}")
    target = SnapshotState.DELETED if snapshot.replaces else SnapshotState.UNHEALTHY
    changes = {"error": error.as_dict(), "parent_id": None}
    what = f"the failure of runtime snapshot {snapshot.id}"
    told = {"error": error.as_dict(), "replaces": snapshot.replaces, "cause": snapshot.cause}

    async def fail() -> None:
        async with events.transaction() as emit:
            await store.snapshots.set_state(snapshot.id, target, **changes)
            await store.snapshots.release(str(snapshot.id))
            await emit("runtime-snapshot.failed", snapshot.id, **told)

    try:
        await retry_until_stored(what, fail)
    except (IllegalTransition, NotFound):  # deleted while it was built
        return
    if snapshot.cause.automatic:
        spoiled = snapshot.replaces or snapshot.id
        await retry_until_stored(
            what, lambda: note_failed_build(store, events, policy, spoiled, error)
        )


async def note_failed_build(
    store: Store, events: EventLog, policy: RetryPolicy, snapshot_id: UUID, error: WarmbootError
) -> None:
    """``snapshot_id`` is the one that was to be replaced, or a first one that could not be built.

    Told as ``runtime-snapshot.retry``, or as ``runtime-snapshot.given-up`` after the last attempt.
    What is no failure of the snapshot's is not counted, and told as ``runtime-snapshot.put-off``.
    """
    if isinstance(error, NO_VERDICT):
        await _put_off(store, events, policy, snapshot_id, error)
        return
    try:
        failures = (await store.snapshots.get(snapshot_id)).rebuild_failures + 1
        pause = policy.pause_after(failures)
        not_before = None if failures >= policy.attempts else datetime.now(UTC) + pause
        await store.snapshots.record_rebuild_failure(snapshot_id, not_before)
    except NotFound:  # deleted meanwhile: nobody wants it any more
        return
    if not_before is not None:
        pause_s = round(pause.total_seconds())
        log.warning(f"Runtime snapshot {snapshot_id} will be rebuilt again in {pause_s} s")
        await events.emit(
            "runtime-snapshot.retry",
            snapshot_id,
            failures=failures,
            not_before=not_before.isoformat(),
            error=error.as_dict(),
        )
        return
    command = f"`warmboot snapshot rebuild {snapshot_id}`"
    log.error(
        f"Runtime snapshot {snapshot_id} could not be rebuilt {failures} times: "
        f"{error.brief}. It is given up; when the cause is removed: {command}"
    )
    told = error.as_dict()
    told["resolution"] = ". ".join(filter(None, (error.resolution, f"then {command}")))
    await events.emit("runtime-snapshot.given-up", snapshot_id, failures=failures, error=told)


async def tell_put_off(
    events: EventLog, snapshot_id: UUID, error: WarmbootError, not_before: datetime | None = None
) -> None:
    """A rebuild has to wait, until ``not_before`` or as long as its cause lasts."""
    log.warning(f"Runtime snapshot {snapshot_id} is rebuilt later: {error.brief}")
    await events.emit(
        "runtime-snapshot.put-off",
        snapshot_id,
        not_before=not_before and not_before.isoformat(),
        error=error.as_dict(),
    )


async def _put_off(
    store: Store, events: EventLog, policy: RetryPolicy, snapshot_id: UUID, error: WarmbootError
) -> None:
    not_before = datetime.now(UTC) + policy.pause_without_verdict
    try:
        await store.snapshots.put_off_rebuild(snapshot_id, not_before, error.code)
    except NotFound:  # deleted meanwhile
        return
    await tell_put_off(events, snapshot_id, error, not_before)

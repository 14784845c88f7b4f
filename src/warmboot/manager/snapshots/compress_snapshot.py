"""Compresses or unpacks the memory of a ready snapshot, as a journaled saga.

The files change by one rename (``host.memory_forms``), so a kill at any point leaves one whole
form. Undoing, therefore, is not going back: what broke off is tidied away, and the row is told
which form there is. Boots go on meanwhile, from the old form until the new one is whole.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.admission import BootAdmission
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.saga import Saga, SagaRunner, Step
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.snapshots.choose_form import Form, form_of
from warmboot.manager.snapshots.snapshot_health import SnapshotHealth
from warmboot.model.errors import (
    Conflict,
    IllegalTransition,
    NotFound,
    SnapshotDamaged,
    WarmbootError,
)
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.store import Store
from warmboot.system.disks import os_error

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class FormNotes:
    """Journaled; the snapshot's id is all that undoing needs."""

    form: Form


@dataclass(slots=True)
class _Change:
    was: RuntimeSnapshot
    now: RuntimeSnapshot


class CompressSnapshot:
    """Implements ``protocols.SnapshotForms``; ``change`` is for who waits. One at a time."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        runner: SagaRunner,
        events: EventLog,
        tasks: Tasks,
        health: SnapshotHealth,
        admission: BootAdmission,
    ) -> None:
        self._store = store
        self._host = host
        self._runner = runner
        self._events = events
        self._tasks = tasks
        self._health = health
        self._admission = admission
        self._changing: set[UUID] = set()
        step = Step("change", self._change, self._settle)
        self.sagas = tuple(
            Saga(f"{verb}-snapshot", FormNotes, step) for verb in ("compress", "unpack")
        )

    async def compress(self, snapshot_id: UUID) -> None:
        """Begin; ``runtime-snapshot.compressed`` or ``.compress-failed`` tells how it went."""
        await self._begin(snapshot_id, Form.COMPRESSED)

    async def unpack(self, snapshot_id: UUID) -> None:
        """Begin; ``runtime-snapshot.unpacked`` or ``.unpack-failed`` tells how it went."""
        await self._begin(snapshot_id, Form.PLAIN)

    async def _begin(self, snapshot_id: UUID, form: Form) -> None:
        await self._ready(snapshot_id)
        if snapshot_id in self._changing:
            raise Conflict(
                f"the runtime snapshot {snapshot_id} is already being compressed or unpacked",
                resolution="wait until that is done",
            )
        self._changing.add(snapshot_id)
        self._tasks.start(f"form {snapshot_id}", self.change(snapshot_id, form))

    async def change(self, snapshot_id: UUID, form: Form) -> None:
        """Have it in ``form``. An event tells so, or what failed: then the old one stays."""
        saga = self.sagas[0 if form is Form.COMPRESSED else 1]
        self._changing.add(snapshot_id)
        try:
            async with self._admission.background(snapshot_id):
                snapshot = await self._ready(snapshot_id)
                change = _Change(snapshot, snapshot)
                if form_of(snapshot) is not form:  # else somebody was faster: told all the same
                    await self._host.storage.ensure_room(_needed_bytes(snapshot, form))
                    await self._runner.run(saga, snapshot_id, FormNotes(form), change)
        except (OSError, WarmbootError) as error:
            cause = os_error(error) if isinstance(error, OSError) else error
            await self._failed(snapshot_id, form, cause)
            return
        finally:
            self._changing.discard(snapshot_id)
        await self._tell(form, change)  # who hears of it may ask for the next change at once

    async def _ready(self, snapshot_id: UUID) -> RuntimeSnapshot:
        snapshot = await self._store.snapshots.get(snapshot_id)
        if snapshot.state is not SnapshotState.READY:
            raise IllegalTransition(
                f"the runtime snapshot {snapshot_id} is {snapshot.state}",
                details="only one that is ready is compressed or unpacked",
                resolution="see `warmboot snapshot ls`",
            )
        return snapshot

    async def _failed(self, snapshot_id: UUID, form: Form, error: WarmbootError) -> None:
        try:
            snapshot = await self._ready(snapshot_id)
        except (NotFound, IllegalTransition):  # deleted or set aside meanwhile: nobody minds
            return
        log.error(f"Runtime snapshot {snapshot_id} could not be {form}: {error.brief}")
        told = error.as_dict()
        if form is Form.COMPRESSED:
            await self._events.emit("runtime-snapshot.compress-failed", snapshot_id, error=told)
        else:
            await self._events.emit("runtime-snapshot.unpack-failed", snapshot_id, error=told)
        if isinstance(error, SnapshotDamaged):
            await self._health.failed(snapshot, error)

    # -- steps ---------------------------------------------------------------------------------

    async def _change(self, notes: FormNotes, change: _Change) -> None:
        files, path = self._host.snapshots, change.was.snapshot_path
        await (files.compress if notes.form is Form.COMPRESSED else files.unpack)(path)
        change.now = await self._agree(change.was)

    async def _settle(self, snapshot_id: UUID, _: FormNotes) -> None:
        """One form stays, and the row says which."""
        with contextlib.suppress(NotFound, SnapshotDamaged):  # removed, or the next check says so
            snapshot = await self._store.snapshots.get(snapshot_id)
            if snapshot.state is not SnapshotState.DELETED:
                await self._host.snapshots.tidy(snapshot.snapshot_path)
                await self._agree(snapshot)

    async def _tell(self, form: Form, change: _Change) -> None:
        snapshot_id, now = change.now.id, change.now.metadata
        log.info(f"Runtime snapshot {snapshot_id} is {form}")
        sizes = {
            "size_bytes": now.get("size_bytes"),
            "was_bytes": change.was.metadata.get("size_bytes"),
        }
        if form is Form.COMPRESSED:
            await self._events.emit("runtime-snapshot.compressed", snapshot_id, **sizes)
        else:
            await self._events.emit("runtime-snapshot.unpacked", snapshot_id, **sizes)

    async def _agree(self, snapshot: RuntimeSnapshot) -> RuntimeSnapshot:
        sizes = await self._host.snapshots.memory_metadata(snapshot.snapshot_path)
        return await self._store.snapshots.update_metadata(snapshot.id, sizes)


def _needed_bytes(snapshot: RuntimeSnapshot, form: Form) -> int:
    """What the new form takes beside the old one, as far as is known; compressed, half."""
    known = snapshot.metadata
    if form is Form.COMPRESSED:
        return int(known.get("mem_stored_bytes") or 0) // 2
    return int(known.get("mem_nonzero_bytes") or known.get("mem_size_bytes") or 0)

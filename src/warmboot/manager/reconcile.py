"""Reconciles the database with the machine when the manager starts.

Running VMs are adopted; half-done work is undone and, if a user requested it, started again; what
belongs to nothing is removed. It makes no difference whether the previous manager was stopped or
killed, or the machine was rebooted. Every row is reconciled by itself, and failures are recorded
(``reconcile_failures``). What an unreadable row may own is left alone (``unreadable_owners``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.containers.containers import Containers
from warmboot.manager.containers.keep_unresponsive import KeepUnresponsive
from warmboot.manager.containers.watch_container import WatchContainer, to_be_removed
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.reconcile_failures import ReconcileFailures
from warmboot.manager.core.retry_until_stored import retry_until_stored
from warmboot.manager.core.saga import Saga, SagaRunner
from warmboot.manager.core.unreadable_owners import Of, UnreadableOwners, unreadable_owners
from warmboot.manager.engines.reconcile_engines import ReconcileEngines
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.manager.tenants.park_tenant import AROUND_PARKED
from warmboot.manager.tenants.pause_tenant import PauseTenant
from warmboot.manager.tenants.resume_stalled import ResumeStalled
from warmboot.manager.vms.slots import slot_of
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import (
    DiskFull,
    HostError,
    NotFound,
    NotSupported,
    Unavailable,
    VmGone,
    WarmbootError,
)
from warmboot.model.journal.operation import Operation
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.model.vm import VmKind, VmRecord
from warmboot.store import Store
from warmboot.system.concurrency import some_at_once

log = structlog.get_logger(__name__)

_ADOPTED = (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.EXITED)

SETTLED_AT_ONCE = 8
"""Containers, some of which may be slow to answer: they keep few others waiting."""

FORMER_SAGAS = (
    "collect-garbage",
    "create-worker",
    "pause-worker",
    "renew-agent",
    "resume-worker",
)
"""Earlier releases journaled these; what is left of them is found by the rest of the start."""


class Reconcile:
    """Call it once, before the first request."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        runner: SagaRunner,
        sagas: tuple[Saga[Any, Any], ...],
        containers: Containers,
        snapshots: RuntimeSnapshots,
        watch: WatchContainer,
        stalled: ResumeStalled,
        garbage: CollectGarbage,
        events: EventLog,
        unresponsive: KeepUnresponsive,
        reconcile_failures: ReconcileFailures,
        engines: ReconcileEngines,
        pauses: PauseTenant,
    ) -> None:
        self._store = store
        self._host = host
        self._runner = runner
        former = (Saga[Any, Any](kind, dict) for kind in FORMER_SAGAS)
        self._sagas = {saga.kind: saga for saga in (*former, *sagas)}
        self._containers = containers
        self._snapshots = snapshots
        self._watch = watch
        self._stalled = stalled
        self._garbage = garbage
        self._events = events
        self._unresponsive = unresponsive
        self._reconcile_failures = reconcile_failures
        self._engines = engines
        self._pauses = pauses
        self._unreadable = UnreadableOwners()

    async def __call__(self) -> None:
        records = await self._store.vms.list()
        self._unreadable = await unreadable_owners(self._store)
        lost = set(await self._host.start(records, self._unreadable.protected()))
        await self._undo_half_done()
        await self._remove_ownerless()
        containers = await self._store.containers.list()
        await some_at_once(SETTLED_AT_ONCE, lambda one: self._settle(one, lost), containers)
        await self._engines(lost)
        await self._snapshot_folders()
        await self._store.idempotency.abandon_all()

    async def _undo_half_done(self) -> None:
        for operation in reversed(await self._store.operations.list()):
            log.warning("undoing what was half done", saga=operation.kind, of=operation.subject_id)
            what = f"the operation {operation.kind} of {operation.subject_id}"
            await self._reconcile_failures.attempt(
                what, self._undo(operation), operation.subject_id
            )

    async def _undo(self, operation: Operation) -> None:
        if (row := self._unreadable.about(operation.subject_id, *operation.vm_ids)) is not None:
            raise row.error()
        saga = self._sagas.get(operation.kind)
        if saga is None:
            raise NotSupported(
                f"this version does not know the operation {operation.kind!r}",
                details=f"the journal has one of {operation.subject_id}, which was not finished; "
                "what it had begun is left as it is",
                resolution="start the version of warmboot that began it, which undoes it",
            )
        if not await self._runner.recover(saga, operation):
            raise HostError(
                "some of its steps could not be undone",
                details="the log says why",
                resolution="the next start of the manager tries again",
            )

    async def _remove_ownerless(self) -> None:
        owners = {container.id for container in await self._store.containers.list()}
        owners |= {engine.id for engine in await self._store.engines.list()}
        owned = self._unreadable[Of.TENANTS]
        if not owned.any_id:
            await self._host.vms.boot_logs.tidy(owners | owned.uuids())
            await self._host.vms.kept_output.tidy(owners | owned.uuids())
        for record in await self._store.vms.list():
            owner = str(record.owner_id)
            if record.kind is VmKind.BUILDER:
                nobodys = owner not in self._unreadable[Of.SNAPSHOTS]
            else:
                nobodys = record.owner_id not in owners and owner not in owned
            if nobodys:
                what = f"the VM {record.id}, which is nobody's"
                await self._reconcile_failures.attempt(what, self._remove(record), record.id)

    async def _remove(self, record: VmRecord) -> None:
        await self._host.vms.destroy(record.id, slot_of(record))
        await self._store.vms.remove(record.id)

    async def _settle(self, container: Container, lost: set[str]) -> WarmbootError | None:
        """By itself: what cannot be settled is marked with why, and keeps nobody waiting."""
        work = self._container(container, lost)
        error = await self._reconcile_failures.attempt(
            f"container {container.name}", work, container.id
        )
        if error is not None:
            await self._mark(container, error)
        return error

    async def _mark(self, container: Container, error: WarmbootError) -> None:
        with contextlib.suppress(WarmbootError):  # it is noted, and gone or not to be written to
            await self._store.containers.update(container.id, error=error.as_dict())
            await self._events.emit("container.unsettled", container.id, error=error.as_dict())

    async def _settle_again(self, container_id: UUID, answers: bool) -> None:
        """One whose VM did not answer before."""

        async def settle() -> None:
            container = await self._store.containers.get(container_id)
            lost = set() if answers or container.vm_id is None else {container.vm_id}
            if container.state is not ContainerState.DELETING:
                error = await self._settle(container, lost)
                if isinstance(error, DiskFull | Unavailable):
                    raise error

        await retry_until_stored(f"how container {container_id} is", settle)

    async def _container(self, container: Container, lost: set[str]) -> None:
        records = await self._store.vms.of_owner(container.id)
        if not records and (row := self._unreadable.vm_of_unknown()) is not None:
            raise row.error()
        if container.state in AROUND_PARKED:
            if await self._containers.parks.settle(container, lost):
                return
            container = await self._store.containers.get(container.id)
        if container.is_put_away and await self._containers.exited.parks.settle(container, lost):
            return
        silent = next((r for r in records if self._host.vms.unresponsive(r.id) is not None), None)
        ending = container.state is ContainerState.DELETING or to_be_removed(container)
        if silent is not None and not ending:
            await self._unresponsive.keep(container, silent.id, self._settle_again)
            return
        alive = [r for r in records if r.id not in lost and r.handle is not None]
        if container.state is ContainerState.DELETING:
            await self._containers.remove(container.id)
            return
        if to_be_removed(container):
            await self._containers.remove(container.id)
            return
        if container.state is ContainerState.CREATING and container.started_at is None:
            if not alive:
                await self._begin_anew(container, records)
        elif not alive:
            gone = VmGone(
                f"the VM of container {container.name} died while the manager was away",
                resolution=f"`warmboot start {container.name}` boots it again on its disk",
            )
            if container.state in (ContainerState.RUNNING, ContainerState.PAUSED):
                await self._watch.vm_lost(container.id, gone)
            else:
                await self._watch.vms.forget(container.id)
        for record in alive:
            await self._stalled.adopt(container, record.id)
            self._unresponsive.watch(container.id, record.id)
        if container.state is ContainerState.CREATING:
            self._containers.resume(container.id)
        elif alive and container.state in _ADOPTED:
            await self._pauses.settle(container)
            await self._containers.folders.adopt(container)
            await self._adopt(container, alive[0].id)
            log.info(f"Container {container.id} adopted in {alive[0].id}")

    async def _begin_anew(self, container: Container, records: Sequence[VmRecord]) -> None:
        """Its command never ran, so nothing is lost with its VM and its disk."""
        for record in records:
            await self._host.vms.destroy(record.id, slot_of(record))
            await self._store.vms.remove(record.id)
        await self._store.snapshots.release(str(container.id))

    async def _adopt(self, container: Container, vm_id: str) -> None:
        """Hold its ports again, and look whether it still runs; if not, the watch says so.

        One that had exited may run: the manager was killed when it had just been started again.
        """
        record = await self._store.vms.get(vm_id)
        slot, exited, runs = slot_of(record), container.state is ContainerState.EXITED, False
        vms = self._host.vms
        # An exited one has none; but its manager may have been killed when it took them again.
        if exited:
            work = vms.unpublish(slot if container.spec.ports else None)
        else:
            work = vms.republish(slot, container.ports)
        what = f"the network of container {container.name}"
        if (
            trouble := await self._reconcile_failures.attempt(what, work, container.id)
        ) is not None:
            await self._mark(container, trouble)
        if container.state is ContainerState.PAUSED:
            self._watch.start(container.id)
            return
        try:
            link = self._host.vms.link(vm_id)
            runs = (await link.docker.inspect(container.docker_id or "")).running
        except NotFound:
            log.error("the guest does not know its container", container=str(container.id))
        except WarmbootError as error:
            log.warning("an adopted guest does not answer yet", vm=vm_id, error=error.brief)
        if not exited:
            self._watch.start(container.id)
        elif runs:
            again = self._containers.started_again.adopt(container, record)
            if (
                trouble := await self._reconcile_failures.attempt(what, again, container.id)
            ) is not None:
                await self._mark(container, trouble)

    async def _snapshot_folders(self) -> None:
        await self._reconcile_failures.attempt("the storage folder", self._garbage.sweep())
        released = self._garbage.collect_released()
        await self._reconcile_failures.attempt("what nobody needs any more", released)
        for snapshot in await self._store.snapshots.list():
            row = self._unreadable.about(snapshot.id)
            begun = snapshot.state is SnapshotState.CREATING and snapshot.is_reproducible
            if begun and row is None:
                self._snapshots.resume(snapshot.id)

"""The manager's first act: database and machine are brought into agreement.

What runs is adopted and goes on; what was half done is undone and, if somebody asked for it, begun
again; what belongs to nobody is removed. It makes no difference whether the manager before was
stopped, killed, or the machine rebooted.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from warmboot.host import guest_containers
from warmboot.host.agent import HostAgent
from warmboot.manager.bring_up import slot_of
from warmboot.manager.collect_garbage import CollectGarbage
from warmboot.manager.containers import Containers
from warmboot.manager.resume_stalled import ResumeStalled
from warmboot.manager.runtime_snapshots import RuntimeSnapshots
from warmboot.manager.saga import Saga, SagaRunner
from warmboot.manager.watch_container import WatchContainer, to_be_removed
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import NotFound, VmGone, WarmbootError
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.model.vm import VmKind, VmRecord
from warmboot.store import Store

log = structlog.get_logger(__name__)


class Reconcile:
    """Call it once, before the first request."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        runner: SagaRunner,
        sagas: tuple[Saga, ...],
        containers: Containers,
        snapshots: RuntimeSnapshots,
        watch: WatchContainer,
        stalled: ResumeStalled,
        garbage: CollectGarbage,
    ) -> None:
        self._store = store
        self._host = host
        self._runner = runner
        self._sagas = {saga.kind: saga for saga in sagas}
        self._containers = containers
        self._snapshots = snapshots
        self._watch = watch
        self._stalled = stalled
        self._garbage = garbage

    async def __call__(self) -> None:
        lost = set(await self._host.start(await self._store.vms.list()))
        await self._undo_half_done()
        await self._remove_ownerless()
        for container in await self._store.containers.list():
            await self._container(container, lost)
        await self._snapshot_folders()
        await self._store.idempotency.abandon_all()

    async def _undo_half_done(self) -> None:
        for operation in reversed(await self._store.operations.list()):
            log.warning("undoing what was half done", saga=operation.kind, of=operation.subject_id)
            await self._runner.recover(self._sagas[operation.kind], operation)

    async def _remove_ownerless(self) -> None:
        owners = {container.id for container in await self._store.containers.list()}
        for record in await self._store.vms.list():
            if record.kind is VmKind.BUILDER or record.owner_id not in owners:
                await self._host.destroy(record.id, slot_of(record))
                await self._store.vms.remove(record.id)

    async def _container(self, container: Container, lost: set[str]) -> None:
        records = await self._store.vms.of_owner(container.id)
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
            if container.state is ContainerState.RUNNING:
                await self._watch.vm_lost(container.id, gone)
            else:
                await self._watch.forget_vm(container.id)
        for record in alive:
            await self._stalled.adopt(container, record.id)
        if container.state is ContainerState.CREATING:
            self._containers.resume(container.id)
        elif alive and container.state in (ContainerState.RUNNING, ContainerState.EXITED):
            await self._adopt(container, alive[0].id)
            log.info(f"Container {container.id} adopted in {alive[0].id}")

    async def _begin_anew(self, container: Container, records: Sequence[VmRecord]) -> None:
        """Its command never ran, so nothing is lost with its VM and its disk."""
        for record in records:
            await self._host.destroy(record.id, slot_of(record))
            await self._store.vms.remove(record.id)
        await self._store.snapshots.release(str(container.id))

    async def _adopt(self, container: Container, vm_id: str) -> None:
        """Hold its ports again, and look whether it still runs; if not, the watch says so.

        One that had exited may run: the manager was killed when it had just been started again.
        """
        record = await self._store.vms.get(vm_id)
        await self._host.republish(slot_of(record), container.ports)
        exited, runs = container.state is ContainerState.EXITED, False
        try:
            link = self._host.link(vm_id)
            runs = (await guest_containers.inspect(link, container.docker_id or "")).running
        except NotFound:
            log.error("the guest does not know its container", container=str(container.id))
        except WarmbootError as error:
            log.warning("an adopted guest does not answer yet", vm=vm_id, error=error.brief)
        if not exited:
            self._watch.start(container.id)
        elif runs:
            await self._containers.note_started(container.id)

    async def _snapshot_folders(self) -> None:
        await self._garbage.sweep()
        await self._garbage.collect_released()
        for snapshot in await self._store.snapshots.list():
            if snapshot.state is SnapshotState.CREATING:
                self._snapshots.resume(snapshot.id)

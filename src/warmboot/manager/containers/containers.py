"""Containers, as the API offers them: create, start, stop, kill, wait, remove."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from warmboot.host.agent import HostAgent
from warmboot.manager.containers.bring_up import Asked, BringUp, bring_up_key
from warmboot.manager.containers.container_sessions import ContainerSessions
from warmboot.manager.containers.container_states import (
    UNBOOTED,
    can_be_stopped,
    check_runs,
    ends,
    fork_of,
    killed_with_vm,
    stop_timeout_s,
)
from warmboot.manager.containers.create_container import CreateContainer
from warmboot.manager.containers.first_attach import FirstAttaches
from warmboot.manager.containers.host_ports import HostPorts
from warmboot.manager.containers.keep_unresponsive import KeepUnresponsive
from warmboot.manager.containers.parking.container_parking import ContainerParking
from warmboot.manager.containers.parking.container_pauses import ContainerPauses
from warmboot.manager.containers.parking.exited_vms import ExitedVms
from warmboot.manager.containers.parking.put_away import ExitedParking, PutAway
from warmboot.manager.containers.start_again import StartAgain
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.manager.core.admission import BootAdmission
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.saga import SagaRunner
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.protocols import Session, Until
from warmboot.manager.tenants.fork_tenant import ForkTenant, NewFork
from warmboot.manager.tenants.freeze_tenant import FreezeTenant
from warmboot.manager.tenants.park_tenant import ParkTenant
from warmboot.manager.tenants.pause_tenant import (
    PauseTenant,
    check_goes_on,
    check_not_paused,
    in_use,
)
from warmboot.manager.tenants.tenant_locks import TenantLocks
from warmboot.manager.vms.boot_vm import BootVm
from warmboot.model.container import LIVING, Container, ContainerSpec, ContainerState
from warmboot.model.conventions.signals import signal_name
from warmboot.model.errors import (
    Conflict,
    HostError,
    IllegalTransition,
    NotFound,
    Unavailable,
    VmGone,
    VmUnresponsive,
)
from warmboot.model.runtime_snapshot import Depth
from warmboot.model.vm import VmKind, VmRecord
from warmboot.store import Store
from warmboot.system.concurrency import finish
from warmboot.system.on_failure import on_failure


class Containers(ContainerSessions, ContainerPauses):
    """Implements ``protocols.Containers``."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        tasks: Tasks,
        bring_up: BringUp,
        admission: BootAdmission,
        watch: WatchContainer,
        create: CreateContainer,
        garbage: CollectGarbage,
        unresponsive: KeepUnresponsive,
        ports: HostPorts,
        folders: TenantFolders,
        pauses: PauseTenant,
        freeze: FreezeTenant,
        runner: SagaRunner,
        boot: BootVm,
        max_forks: int,
        park_exited_after_s: float,
    ) -> None:
        locks = TenantLocks()
        common = (VmKind.CONTAINER, store, host, runner, events, garbage)
        to_park = (*common, freeze, pauses, boot, admission, locks)
        parking = ContainerParking(host, watch, folders)
        parks = ParkTenant[Container](*to_park, parking)
        ContainerPauses.__init__(self, store, host, tasks, locks, pauses, parks, parking)
        away = PutAway(*to_park, ExitedParking(folders))
        self.exited = ExitedVms(store, host, locks, away, park_exited_after_s)
        ContainerSessions.__init__(self, store, host, events, watch, self.exited)
        self._events = events
        self._bring_up = bring_up
        self._admission = admission
        self._create = create
        self._garbage = garbage
        self._unresponsive = unresponsive
        self._ports = ports
        self.folders = folders
        self.started_again = StartAgain(store, host, events, watch, ports, folders)
        self._first = FirstAttaches()
        self._freeze = freeze
        self.forks = ForkTenant[Container](*common, self, max_forks)

    # -- asking --------------------------------------------------------------------------------

    async def list(self, *, all_states: bool = False) -> Sequence[Container]:
        states = None if all_states else LIVING
        return await self._store.containers.list(states)

    # -- life ----------------------------------------------------------------------------------

    async def create(
        self, spec: ContainerSpec, *, attach: bool = False, start: bool = True
    ) -> UUID:
        """Begin; ``container.running`` or ``container.failed`` tells how it went."""
        if not start:
            return (await self._create(spec, now=False)).id
        return await self._create_and_start(spec, attach=attach)

    async def _create_and_start(
        self, spec: ContainerSpec, container_id: UUID | None = None, *, attach: bool = False
    ) -> UUID:
        watch, ticket = Stopwatch(), self._admission.boot()
        with on_failure(ticket.over):
            await ticket.prepare()
            container = await self._create(spec, now=True, container_id=container_id)
        first = self._first.expect(container.id) if attach else None
        self._begin(Asked(container.id, ticket, watch, container, first))
        return container.id

    def resume(self, container_id: UUID) -> None:
        """Take up a container that an earlier manager had begun to bring up."""
        self._begin(Asked(container_id, self._admission.boot()))

    async def start(self, ref: str, *, attach: bool = False) -> None:
        """Start a container that was only created, has exited or failed, or wake a parked one; one
        that runs is left alone. ``attach``: one that has to be booted is not started before a
        client has attached.
        """
        async with self._held(ref) as container:
            if container.state is ContainerState.PARKED:
                await self._wake(container)
                return
            check_not_paused(container)
            if container.state in LIVING:
                return
            container = await self.exited.woken_or_failed(container)
            record = await self._record(container)
            if container.state is ContainerState.EXITED:
                if record is not None and await self._host.vms.is_alive(record.id):
                    check_goes_on(container)
                    again = self.started_again(container, record)
                    await self._locks.refuse_removed(container, again)
                    return
                # Its VM died after it had ended: the way back leads through ``failed``.
                await self._watch.vms.forget(container.id)
                await self._store.containers.set_state(container.id, ContainerState.FAILED)
            await self._host.ensure_memory(container.shape)
            async with (
                self._ports.free(container.spec, container.id) as free,
                self._events.transaction() as emit,
            ):
                begun = await self._store.containers.begin(container.id, free.ports, **UNBOOTED)
                await emit("container.creating", container.id, name=begun.name)
            first = self._first.expect(container.id) if attach else None
            self._begin(Asked(container.id, self._admission.boot(), first=first))

    async def stop(
        self, ref: str, timeout_s: float | None = None, signal: str | None = None
    ) -> None:
        """``signal``, and SIGKILL after ``timeout_s``; one that does not run is left alone."""
        container = await self.get(ref)
        if not can_be_stopped(container):
            return
        timeout_s = stop_timeout_s(container, timeout_s)
        async with self._locks.hold(container.id):
            container = await self._store.containers.get(container.id)
            if not can_be_stopped(container):  # while we waited, it was
                return
            if self._host.vms.unresponsive(container.vm_id) is not None:
                stopping = self._unresponsive.stop(container, timeout_s)
                if not await self._locks.unless_removed(container.id, stopping):
                    return
                container = await self._store.containers.get(container.id)
                if not can_be_stopped(container):
                    return
            if container.state is ContainerState.PAUSED:
                going_on = self._go_on_to_end(container)
                if not await self._locks.unless_removed(container.id, going_on):
                    return
                container = await self._store.containers.get(container.id)
                if not can_be_stopped(container):
                    return
            docker_id = container.docker_id or ""
            stopping = self.in_guest.link(container).docker.stop(docker_id, timeout_s, signal)
            if not await self._locks.unless_removed(container.id, stopping):
                return
            if not await self._watch.wait_until_stored(container.id):
                raise Unavailable(
                    f"{container.name} was stopped, but its end is not stored yet",
                    details="the database is not writable, or Docker in the VM does not answer",
                    resolution="the manager keeps trying, and its log says why; "
                    f"check again: `warmboot inspect {container.name}`",
                )

    async def kill(self, ref: str, signal: str) -> None:
        """Send a signal without holding the lock: it also ends a container that somebody
        waits for to stop.
        """
        container, for_good = await self.get(ref), signal_name(signal) in ("SIGKILL", "9")
        if container.state is ContainerState.PAUSED and ends(container, signal):
            try:
                await self.unpause(ref)
            except VmUnresponsive:
                if not for_good:
                    raise
                await self._unresponsive.end(container)
                return
            container = await self._store.containers.get(container.id)
        check_runs(container)
        assert container.docker_id is not None
        if self._host.vms.unresponsive(container.vm_id) and for_good:
            await self._unresponsive.end(container)
            return
        await self.in_guest.link(container).docker.kill(container.docker_id, signal)
        if for_good:
            await self._watch.wait_until_stored(container.id)

    async def fork(
        self, ref: str, count: int, *, writable_folders: bool = False
    ) -> Sequence[Container]:
        return await self.forks(await self.get(ref), count, writable_folders=writable_folders)

    async def freeze(self, container_id: UUID, snapshot_id: UUID, name: str | None) -> None:
        """Keep its VM as it is now; the container runs on."""
        async with self._locks.hold(container_id):
            container = await self._store.containers.get(container_id)
            check_goes_on(container)
            await self._freeze(container, snapshot_id, name, Depth.CONTAINER)

    async def create_fork(self, source: Container, fork: NewFork) -> None:
        await self._create_and_start(fork_of(source, fork), fork.id)

    async def wait_up(self, container_id: UUID, timeout_s: float) -> Container:
        return await self.wait(str(container_id), Until.RUNNING, timeout_s)

    async def restart(self, ref: str, timeout_s: float | None = None) -> None:
        container = await self.get(ref)
        # One that is to be removed at its end is kept until then, as for somebody who reads it.
        with self._watch.streaming(container.id):
            await self.stop(ref, timeout_s)
            await self.start(ref)

    async def delete(self, ref: str, *, force: bool = False) -> None:
        container = await self.get(ref)
        if not force and container.state in LIVING:
            raise in_use(container)
        await self.remove(container.id)

    async def remove(self, container_id: UUID) -> None:
        """Give back everything the container has, whatever it is doing. Idempotent."""
        with contextlib.suppress(IllegalTransition, NotFound):  # somebody else deletes it too
            # First of all: nobody can begin anything with it from here on.
            async with self._events.transaction() as emit:
                ended = killed_with_vm(await self._store.containers.get(container_id))
                await self._store.containers.set_state(
                    container_id, ContainerState.DELETING, **ended
                )
                await emit("container.deleting", container_id)
        async with self._locks.hold_for_removal(container_id):
            # Within it: a start that held it may just have begun to bring it up.
            await self._tasks.cancel(bring_up_key(container_id))
            await self._watch.stop(container_id)
            with contextlib.suppress(NotFound):
                await self._give_back(await self._store.containers.get(container_id))

    async def _give_back(self, container: Container) -> None:
        await self._watch.vms.give_back(container.id)
        await self._host.vms.kept_output.forget(container.id)
        self._gone.add(self._watch.last_seen(container))
        async with self._events.transaction() as emit:
            await self._store.containers.remove(container.id)
            await emit("container.deleted", container.id)
        await self._garbage.collect_released()

    async def rename(self, ref: str, name: str) -> Container:
        """It keeps its host name. ``NameTaken``; ``Conflict`` while it is being removed."""
        container = await self.get(ref)
        if container.state is ContainerState.DELETING:
            raise Conflict(f"{container.name} is being removed")
        async with self._events.transaction() as emit:
            renamed = await self._store.containers.rename(container.id, name)
            await emit("container.renamed", container.id, name=name, was=container.name)
        return renamed

    # -- output and sessions -------------------------------------------------------------------

    async def attach(self, ref: str, *, logs: bool = True, start: bool = False) -> Session:
        container = await self.get(ref)
        if start and container.state is ContainerState.EXITED:
            found = None
            with contextlib.suppress(VmGone, Conflict, HostError):  # then it is booted again
                found = await self.in_guest(ref)
            with contextlib.suppress(VmGone):  # then, too
                if found is not None:
                    return await self._start_attached(found)
        if start:
            await finish(self.start(ref, attach=True))
        async with self._first.place(container.id) as place:
            if place is not None:
                vm_id, docker_id = place
                return await self._attach(container, self._host.vms.link(vm_id), docker_id)
        container = await self.in_guest(ref)
        assert container.docker_id is not None
        return await self._attach(
            container, self.in_guest.link(container), container.docker_id, logs
        )

    async def _start_attached(self, container: Container) -> Session:
        """Attach to one that has ended, and start it again in its VM."""
        assert container.docker_id is not None
        link = self.in_guest.link(container)
        session = await self._attach(container, link, container.docker_id, to_start=True)
        async with on_failure(session.close):
            await finish(self.start(str(container.id)))
        return session

    # -- inside --------------------------------------------------------------------------------

    async def _go_on_to_end(self, container: Container) -> None:
        """Unpause one that is to be stopped; if its VM does not answer, it ends with that."""
        try:
            await self._pauses.unpause(container)
        except VmUnresponsive:
            await self._unresponsive.end(container)

    def _begin(self, asked: Asked) -> None:
        again = False

        async def work() -> None:
            nonlocal again
            # What an earlier round has left is found in the store.
            wanted, again = replace(asked, fresh=None) if again else asked, True
            await self._bring_up(wanted)
            self._watch.start(asked.container_id)
            # A boot that failed has given back its lease, perhaps the last one.
            await self._garbage.collect_released()

        def over() -> None:
            asked.ticket.over()
            if asked.first is not None:
                self._first.close(asked.container_id, asked.first)

        self._tasks.keep_going(Work.BRING_UP, bring_up_key(asked.container_id), work, over)

    async def _record(self, container: Container) -> VmRecord | None:
        records = await self._store.vms.of_owner(container.id)
        return records[0] if records else None

"""Engines, as the API offers them: create, start, stop, wait, remove."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.admission import BootAdmission
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import store_state
from warmboot.manager.core.saga import SagaRunner
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.engines.bring_up_engine import Asked, BringUpEngine, bring_up_key
from warmboot.manager.engines.engine_containers import EngineContainers
from warmboot.manager.engines.engine_disks import EngineDisks
from warmboot.manager.engines.engine_owners import check_holder, check_owner
from warmboot.manager.engines.engine_parking import EngineParking
from warmboot.manager.engines.engine_ports import EnginePorts
from warmboot.manager.engines.engine_sockets import EngineSockets
from warmboot.manager.engines.engine_states import (
    UNBOOTED,
    can_be_stopped,
    check_handed_over,
    has_booted,
    has_reached,
)
from warmboot.manager.engines.keep_silent import unresponsive_key
from warmboot.manager.engines.moments import moment_for, noted_of, ports_at
from warmboot.manager.engines.ports.own_addresses import OwnAddresses
from warmboot.manager.engines.tcp.tcp_ports import TcpPorts
from warmboot.manager.engines.watch_engine import WatchEngine
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.images.choose_image import choose_image
from warmboot.manager.protocols import EngineUntil
from warmboot.manager.tenants.fork_tenant import ForkTenant, NewFork
from warmboot.manager.tenants.freeze_tenant import FreezeTenant
from warmboot.manager.tenants.moments import begun_from
from warmboot.manager.tenants.park_by_policy import ParkByPolicy
from warmboot.manager.tenants.park_tenant import ParkTenant
from warmboot.manager.tenants.pause_tenant import PauseTenant, check_not_paused, in_use
from warmboot.manager.tenants.removed_tenants import RemovedTenants
from warmboot.manager.tenants.tenant_locks import TenantLocks
from warmboot.manager.vms.boot_vm import BootVm
from warmboot.model.conventions.registry_logins import RegistryLogin, check_size
from warmboot.model.errors import IllegalTransition, InvalidRequest, NotFound
from warmboot.model.runtime_snapshot import Depth
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootPolicy
from warmboot.model.tenants.engine import LIVING, Certificates, Engine, EngineSpec, EngineState
from warmboot.model.usage import DiskUsage
from warmboot.model.vm import VmKind
from warmboot.store import Store
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

DEFAULT_STOP_TIMEOUT_S = 10.0

HAND_OVER_TIMEOUT_S = 60.0
"""How long a freeze or a pause waits for an engine that was just booted."""


class Engines:
    """Implements ``protocols.Engines``."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        tasks: Tasks,
        bring_up: BringUpEngine,
        admission: BootAdmission,
        watch: WatchEngine,
        sockets: EngineSockets,
        ports: EnginePorts,
        addresses: OwnAddresses,
        containers: EngineContainers,
        disks: EngineDisks,
        folders: TenantFolders,
        garbage: CollectGarbage,
        freeze: FreezeTenant,
        pauses: PauseTenant,
        runner: SagaRunner,
        boot: BootVm,
        default_shape: Shape,
        max_forks: int,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._tasks = tasks
        self._bring_up = bring_up
        self._admission = admission
        self._watch = watch
        self._sockets = sockets
        self._ports = ports
        self._addresses = addresses
        self._tcp = TcpPorts(store, host)
        self._containers = containers
        self._disks = disks
        self._folders = folders
        self._garbage = garbage
        self._freeze = freeze
        self._pauses = pauses
        common = (VmKind.ENGINE, store, host, runner, events, garbage)
        self.forks = ForkTenant[Engine](*common, self, max_forks)
        self._locks = TenantLocks()
        parking = EngineParking(host, tasks, bring_up, watch, ports, sockets, folders)
        to_park = (*common, freeze, pauses, boot, admission, self._locks)
        self.parks = ParkTenant[Engine](*to_park, parking)
        self.by_policy = ParkByPolicy(
            VmKind.ENGINE, store, host, tasks, self.parks, self._locks, self._running, parking
        )
        self._default_shape = default_shape
        self._gone = RemovedTenants(store.engines, events)

    # -- asking --------------------------------------------------------------------------------

    async def list(self) -> Sequence[Engine]:
        return await self._store.engines.list()

    async def get(self, ref: str) -> Engine:
        return await self._store.engines.find(ref)

    async def wait(self, ref: str, until: EngineUntil, timeout_s: float) -> Engine:
        return await self._gone.wait(ref, lambda found: has_reached(found, until), timeout_s)

    async def wait_booted(self, engine_id: UUID, timeout_s: float) -> Engine:
        return await self._gone.wait(str(engine_id), has_booted, timeout_s)

    async def boot_log(self, ref: str) -> bytes:
        return await self._watch.vms.boot_log((await self.get(ref)).id)

    async def certificates(self, ref: str) -> Certificates:
        engine = await self.get(ref)
        return await self._host.certificates.read(str(engine.id))

    async def renew_certificates(self, ref: str) -> None:
        async with self._held(ref) as engine:  # a removal after it takes them away
            if engine.state is EngineState.DELETING:
                raise NotFound(f"the engine {engine.name} is being removed")
            made = await self._tcp.renew(engine)
            await self._sockets.show(engine)
            await self._events.emit(
                "engine.certificates-renewed", engine.id, expires_at=made.expires_at.isoformat()
            )

    async def disk(self, ref: str) -> DiskUsage:
        return await self._disks.usage(await self.get(ref))

    async def log_in(self, ref: str, logins: Sequence[RegistryLogin]) -> None:
        check_size(logins)
        async with self._held(ref) as engine:  # a removal after it takes them away
            if engine.state is EngineState.DELETING:
                raise NotFound(f"the engine {engine.name} is being removed")
            await self._sockets.log_in(engine, logins)

    # -- life ----------------------------------------------------------------------------------

    async def create(self, spec: EngineSpec, engine_id: UUID | None = None) -> UUID:
        """Begin; ``engine.running`` or ``engine.failed`` tells how it went."""
        watch, ticket = Stopwatch(), self._admission.boot()
        with on_failure(ticket.over):
            await ticket.prepare()
            engine = await self._create(spec, engine_id or uuid4())
        self._watch.start_clocks(engine)
        self._begin(Asked(engine.id, ticket, watch, engine))
        return engine.id

    async def _create(self, spec: EngineSpec, engine_id: UUID) -> Engine:
        check_owner(spec)
        check_holder(spec)
        if spec.host_ports and self._host.vms.engine_network is None:
            raise InvalidRequest(
                "this hypervisor has no network, through which ports of the host could be opened",
                resolution="leave host_ports out, or use QEMU or Firecracker",
            )
        moment = None
        if spec.snapshot:
            moment = await moment_for(self._store, self._host, spec)
            image_id = moment.runtime_image_id
            spec = replace(spec, snapshot=str(moment.id), shape=moment.shape)
        else:
            image_id = await choose_image(self._store, spec.runtime_image_id)
        self._host.check_shape(spec.shape, self._default_shape)
        await self._host.ensure_memory(spec.shape or self._default_shape)
        await self._disks.check(spec, image_id)
        spec = replace(spec, folders=await self._folders.checked(spec, moment))
        async with self._addresses.free_one() as address, self._tcp.taken(spec.tcp, engine_id):
            engine = Engine(
                id=engine_id,
                spec=spec,
                state=EngineState.CREATING,
                created_at=datetime.now(UTC),
                shape=spec.shape or self._default_shape,
                socket=str(self._host.front.socket_of(spec.name)),
                address=address,
                runtime_image_id=image_id,
                ports=() if moment is None else ports_at(moment, address),
            )
            async with self._events.transaction() as emit:
                await self._store.engines.add(engine)
                if moment is not None:
                    await begun_from(self._store, moment, engine.id)
                await emit("engine.creating", engine.id, name=spec.name)
        return engine

    def resume(self, engine_id: UUID) -> None:
        """Take up an engine that an earlier manager had begun to bring up, or to hand over."""
        self._begin(Asked(engine_id, self._admission.boot()))

    def _begin(self, asked: Asked) -> None:
        engine_id = asked.engine_id

        async def work() -> None:
            await self._bring_up(asked)
            self._watch.remove_ended(engine_id)

        self._tasks.keep_going(Work.BRING_UP, bring_up_key(engine_id), work, asked.ticket.over)

    async def start(self, ref: str) -> None:
        """Boot one that is stopped or has failed, on its disk; wake one that is parked. One that
        runs is left alone."""
        async with self._held(ref) as engine:
            if engine.state is EngineState.PARKED:
                await self._locks.refuse_removed(engine, self.parks.wake(engine))
                return
            check_not_paused(engine)
            if engine.state in (EngineState.RUNNING, EngineState.CREATING):
                return
            await self._host.ensure_memory(engine.shape)
            # What still ends with its VM before may not take this start for its own.
            await self._tasks.cancel(bring_up_key(engine.id))
            await self._watch.stop(engine.id)
            async with self._events.transaction() as emit:
                await self._store.engines.set_state(engine.id, EngineState.CREATING, **UNBOOTED)
                await emit("engine.creating", engine.id, name=engine.name)
            self._begin(Asked(engine.id, self._admission.boot()))

    async def stop(self, ref: str, timeout_s: float | None = None) -> None:
        """Stop its containers, then its VM; its disk is kept. A stopped one is left alone."""
        engine = await self.get(ref)
        if not can_be_stopped(engine):
            return
        async with self._locks.hold(engine.id):
            engine = await self._store.engines.get(engine.id)
            if not can_be_stopped(engine):  # while we waited, it was
                return
            await self._tasks.cancel(bring_up_key(engine.id))  # it may not be handed over yet
            assert engine.vm_id is not None
            if engine.state is EngineState.PAUSED:
                going_on = self._pauses.unpause_if_it_answers(engine)
                if not await self._locks.unless_removed(engine.id, going_on):
                    return
            limit_s = DEFAULT_STOP_TIMEOUT_S if timeout_s is None else timeout_s
            quiet = self._containers.stop(engine, limit_s)
            if not await self._locks.unless_removed(engine.id, quiet):
                return
            await self._watch.stop(engine.id)  # or it takes this for a failure
            await self._tasks.cancel(unresponsive_key(engine.id))  # so does this
            await self._ports.stop(engine.id)
            await self._watch.vms.forget(engine.id)
            stopped = await store_state(
                self._store,
                self._events,
                engine.id,
                EngineState.STOPPED,
                told=lambda _: {},
                vm_id=None,
                error=None,
                finished_at=datetime.now(UTC),
            )
            await self._sockets.show_if_possible(stopped)
        self._watch.remove_ended(engine.id)

    async def pause(self, ref: str) -> None:
        async with self._running((await self.get(ref)).id) as engine:
            await self._locks.refuse_removed(engine, self._pauses.pause(engine))
            await self._show(engine.id)

    async def unpause(self, ref: str) -> None:
        async with self._held(ref) as engine:
            await self._locks.refuse_removed(engine, self._pauses.unpause(engine))
            await self._show(engine.id)

    async def park(self, ref: str) -> None:
        async with self._running((await self.get(ref)).id) as engine:
            await self._locks.refuse_removed(engine, self.parks.park(engine))

    async def wake(self, ref: str) -> None:
        async with self._held(ref) as engine:
            await self._locks.refuse_removed(engine, self.parks.wake(engine))

    @contextlib.asynccontextmanager
    async def _held(self, ref: str) -> AsyncIterator[Engine]:
        """As it is when its lock is ours."""
        engine = await self.get(ref)
        async with self._locks.hold(engine.id):
            yield await self._store.engines.get(engine.id)

    @contextlib.asynccontextmanager
    async def _running(self, engine_id: UUID) -> AsyncIterator[Engine]:
        """The same of one whose VM is to stand still: one that runs has been handed over."""
        await self._just_booted(engine_id)
        async with self._held(str(engine_id)) as engine:
            if engine.state is EngineState.RUNNING:
                check_handed_over(engine)
            yield engine

    async def _show(self, engine_id: UUID) -> None:
        await self._sockets.show_if_possible(await self._store.engines.get(engine_id))

    async def snapshot(self, ref: str, name: str) -> UUID:
        snapshot_id = uuid4()
        await self.freeze((await self.get(ref)).id, snapshot_id, name)
        return snapshot_id

    async def fork(
        self, ref: str, count: int, *, writable_folders: bool = False
    ) -> Sequence[Engine]:
        return await self.forks(await self.get(ref), count, writable_folders=writable_folders)

    async def freeze(self, engine_id: UUID, snapshot_id: UUID, name: str | None) -> None:
        """Make a snapshot of a running engine; without a name it is nobody's but the caller's."""
        async with self._running(engine_id) as engine:

            async def note() -> Mapping[str, Any]:
                return noted_of(await self._store.engines.get(engine_id))

            await self._freeze(engine, snapshot_id, name, Depth.ENGINE, note)

    async def create_fork(self, source: Engine, fork: NewFork) -> None:
        spec = replace(
            source.spec,
            name=fork.name,
            snapshot=str(fork.moment_id),
            boot=BootPolicy.AUTO,
            shape=None,
            runtime_image_id=None,
            tcp=None,
            folders=source.spec.folders if fork.writable_folders else (),
        )
        await self.create(spec, fork.id)

    async def wait_up(self, engine_id: UUID, timeout_s: float) -> Engine:
        return await self.wait(str(engine_id), EngineUntil.RUNNING, timeout_s)

    async def _just_booted(self, engine_id: UUID) -> None:
        """Wait until it is handed over, or for long enough."""
        with contextlib.suppress(TimeoutError):  # then it is told that it was not handed over
            async with asyncio.timeout(HAND_OVER_TIMEOUT_S):
                await self._tasks.ended(bring_up_key(engine_id))

    async def delete(self, ref: str, *, force: bool = False) -> None:
        engine = await self.get(ref)
        if not force and engine.state in LIVING:
            raise in_use(engine)
        await self.remove(engine.id)

    async def remove(self, engine_id: UUID) -> None:
        """Give back everything the engine has, whatever it is doing. Idempotent."""
        with contextlib.suppress(IllegalTransition, NotFound):  # somebody else deletes it too
            # First of all: nobody can begin anything with it from here on.
            async with self._events.transaction() as emit:
                await self._store.engines.set_state(engine_id, EngineState.DELETING)
                await emit("engine.deleting", engine_id)
        async with self._locks.hold_for_removal(engine_id):
            # Within it: a start that held it may just have begun to bring it up.
            await self._tasks.cancel(bring_up_key(engine_id))
            await self._watch.stop(engine_id)
            await self._ports.stop(engine_id)
            with contextlib.suppress(NotFound):
                await self._give_back(await self._store.engines.get(engine_id))
        await self._watch.stop_clocks(engine_id)

    async def _give_back(self, engine: Engine) -> None:
        await self._sockets.remove(engine)
        await self._watch.vms.give_back(engine.id)
        await self._host.certificates.forget(str(engine.id))
        self._gone.add(engine)
        async with self._events.transaction() as emit:
            await self._store.engines.remove(engine.id)
            await emit("engine.deleted", engine.id)
        await self._garbage.collect_released()

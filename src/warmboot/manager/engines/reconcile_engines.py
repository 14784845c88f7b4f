"""Reconciles engines with the machine when the manager starts; ``reconcile`` does the rest.

Running VMs are adopted and their sockets served again; the front may have gone on all the while.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.reconcile_failures import ReconcileFailures
from warmboot.manager.engines.engine_ports import EnginePorts
from warmboot.manager.engines.engine_sockets import EngineSockets
from warmboot.manager.engines.engine_states import to_be_removed
from warmboot.manager.engines.engines import Engines
from warmboot.manager.engines.keep_silent import KeepSilent
from warmboot.manager.engines.ports.own_addresses import OwnAddresses
from warmboot.manager.engines.users.default_engines import DefaultEngines
from warmboot.manager.engines.watch_engine import WatchEngine
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.tenants.park_tenant import AROUND_PARKED
from warmboot.manager.tenants.pause_tenant import PauseTenant
from warmboot.manager.tenants.resume_stalled import ResumeStalled
from warmboot.manager.vms.slots import slot_of
from warmboot.model.errors import HostError, VmGone, WarmbootError
from warmboot.model.tenants.engine import Engine, EngineState
from warmboot.store import Store

log = structlog.get_logger(__name__)


class ReconcileEngines:
    """Call it with the ids of the VMs that are lost, once the host agent has started."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        engines: Engines,
        watch: WatchEngine,
        stalled: ResumeStalled,
        sockets: EngineSockets,
        ports: EnginePorts,
        addresses: OwnAddresses,
        silent: KeepSilent,
        failures: ReconcileFailures,
        users: DefaultEngines,
        pauses: PauseTenant,
        folders: TenantFolders,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._engines = engines
        self._watch = watch
        self._stalled = stalled
        self._sockets = sockets
        self._ports = ports
        self._addresses = addresses
        self._silent = silent
        self._failures = failures
        self._users = users
        self._pauses = pauses
        self._folders = folders

    async def __call__(self, lost: set[str]) -> None:
        engines = await self._store.engines.list()
        served: Sequence[str] = ()
        uids: Sequence[int] = ()
        with contextlib.suppress(HostError):  # said again where a socket is needed
            served, uids = await self._host.front.adopt()
        for engine in engines:
            what = f"engine {engine.name}"
            work = self._engine(engine, lost)
            if (error := await self._failures.attempt(what, work, engine.id)) is not None:
                await self._mark(engine, error)
        await self._users.serve(uids)
        if await self._store.unreadable.list(("engines",)):
            return  # what the front serves may be theirs
        await self._host.certificates.keep({str(engine.id) for engine in engines})
        for unknown in set(served) - {str(engine.id) for engine in engines}:
            with contextlib.suppress(HostError):
                await self._host.front.forget(unknown)

    async def _mark(self, engine: Engine, error: WarmbootError) -> None:
        with contextlib.suppress(WarmbootError):  # it is noted, and gone or not to be written to
            await self._store.engines.update(engine.id, error=error.as_dict())
            await self._events.emit("engine.unsettled", engine.id, error=error.as_dict())

    async def _engine(self, engine: Engine, lost: set[str]) -> None:
        if engine.state is EngineState.DELETING or to_be_removed(engine, datetime.now(UTC)):
            await self._engines.remove(engine.id)
            return
        engine = await self._addresses.ensure(engine)
        self._watch.start_clocks(engine)
        if engine.state in AROUND_PARKED:
            if await self._engines.parks.settle(engine, lost):
                return
            engine = await self._store.engines.get(engine.id)
        records = await self._store.vms.of_owner(engine.id)
        alive = [r for r in records if r.id not in lost and r.handle is not None]
        for record in alive:
            await self._stalled.adopt(engine, record.id)
        if engine.state is EngineState.CREATING:
            if not alive and engine.started_at is None:  # nothing is lost with its disk
                for record in records:
                    await self._host.vms.destroy(record.id, slot_of(record))
                    await self._store.vms.remove(record.id)
                await self._store.snapshots.release(str(engine.id))
            self._engines.resume(engine.id)
        elif engine.state in (EngineState.RUNNING, EngineState.PAUSED):
            await self._running(engine, bool(alive))
        else:
            if alive:  # it was being stopped
                await self._watch.vms.forget(engine.id)
            await self._sockets.show_if_possible(engine)

    async def _running(self, engine: Engine, alive: bool) -> None:
        if not alive:
            gone = VmGone(
                f"the VM of the engine {engine.name} died while the manager was away",
                resolution=f"`warmboot engine start {engine.name}` boots it again on its disk",
            )
            await self._watch.vm_lost(engine, gone)
            return
        if self._host.vms.unresponsive(engine.vm_id) is not None:
            await self._silent.keep(engine, self._running)
            return
        await self._pauses.settle(engine)
        await self._folders.adopt(engine)
        await self._sockets.show(engine)
        self._watch.start(engine.id)
        await self._ports.adopt(engine)
        if engine.vm_id is not None:
            self._silent.watch(engine.id, engine.vm_id)
        if not engine.handed_over:
            self._engines.resume(engine.id)
        log.info(f"Engine {engine.id} adopted in {engine.vm_id}")

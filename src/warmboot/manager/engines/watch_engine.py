"""Watches engines: the end of a VM, of the time that an engine has, and of its holder.

One task an engine's VM, from when it runs until its end; one for each of what else may end it: its
time to live, and the process that holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import store_state
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.engines.engine_sockets import EngineSockets
from warmboot.manager.engines.engine_states import to_be_removed
from warmboot.manager.tenants.tenant_vms import TenantVms
from warmboot.model.errors import IllegalTransition, NotFound, VmGone, WarmbootError
from warmboot.model.journal.event import Event
from warmboot.model.tenants.engine import Engine, EngineState, ProcessIdentity
from warmboot.model.vm import VmKind
from warmboot.store import Store
from warmboot.system.concurrency import process_ended
from warmboot.system.procfs import open_process

log = structlog.get_logger(__name__)


class WatchEngine:
    """``remove`` is called with the id of an engine that is to go by itself."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        tasks: Tasks,
        sockets: EngineSockets,
        remove: Callable[[UUID], Awaitable[None]],
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._tasks = tasks
        self._sockets = sockets
        self._remove = remove
        self.vms = TenantVms(store, host, VmKind.ENGINE)

    def on_event(self, event: Event) -> None:
        """An observer of the event log."""
        if event.kind in ("engine.running", "engine.woken"):
            self.start(UUID(event.subject_id))

    def start(self, engine_id: UUID) -> None:
        """Watch an engine until its VM's end."""
        self._tasks.keep_going(
            Work.WATCH_ENGINES, _key(engine_id), lambda: self._watch_vm(engine_id)
        )

    def start_clocks(self, engine: Engine) -> None:
        """Watch the time that an engine has, and the process that holds it, if it has one
        of them.
        """
        engine_id, holder, expires_at = engine.id, engine.spec.holder, engine.expires_at
        if expires_at is not None:
            self._tasks.keep_going(
                Work.WATCH_ENGINES,
                f"clock {engine_id}",
                lambda: self._watch_clock(engine_id, expires_at),
            )
        if holder is not None:
            self._tasks.keep_going(
                Work.WATCH_ENGINES,
                f"holder {engine_id}",
                lambda: self._watch_holder(engine_id, holder),
            )

    async def stop(self, engine_id: UUID) -> None:
        await self._tasks.cancel(_key(engine_id))

    async def stop_clocks(self, engine_id: UUID) -> None:
        for clock in ("clock", "holder"):
            await self._tasks.cancel(f"{clock} {engine_id}")

    def remove_ended(self, engine_id: UUID) -> None:
        """Remove it, if it is to go when it has ended."""

        async def removed() -> None:
            engine = await self._store.engines.get(engine_id)
            if to_be_removed(engine, datetime.now(UTC)):
                await self._remove(engine_id)

        self._tasks.keep_going(Work.WATCH_ENGINES, f"remove {engine_id}", removed)

    async def _watch_vm(self, engine_id: UUID) -> None:
        engine = await self._store.engines.get(engine_id)
        if (vm_id := engine.live_vm_id) is None:
            return
        with contextlib.suppress(VmGone):
            await self._host.vms.wait_gone(vm_id)
        await self.vm_lost(
            engine,
            VmGone(
                f"the VM of the engine {engine.name} died",
                details=f"the VMM process of {engine.vm_id} ended unexpectedly",
                resolution=f"`warmboot engine start {engine.name}` boots it again on its disk",
            ),
        )

    async def vm_lost(self, engine: Engine, error: WarmbootError) -> None:
        """Its VM is no more: it has failed, and keeps its disk."""
        await self.vms.lost(engine.id, error)
        with contextlib.suppress(IllegalTransition, NotFound):
            failed = await store_state(
                self._store,
                self._events,
                engine.id,
                EngineState.FAILED,
                told=lambda _: {"error": error.as_dict()},
                error=error.as_dict(),
                vm_id=None,
                finished_at=datetime.now(UTC),
            )
            await self._sockets.show_if_possible(failed)
            self.remove_ended(engine.id)

    async def _watch_clock(self, engine_id: UUID, expires_at: datetime) -> None:
        left = expires_at - datetime.now(UTC)
        await asyncio.sleep(max(0.0, left.total_seconds()))
        log.info(f"The time of engine {engine_id} is over")
        await self._remove(engine_id)

    async def _watch_holder(self, engine_id: UUID, holder: ProcessIdentity) -> None:
        pidfd = open_process(holder.pid, holder.start_time_ticks)
        if pidfd is not None:
            try:
                await process_ended(pidfd)
            finally:
                os.close(pidfd)
        log.info(f"The process that held engine {engine_id} has ended")
        await self._remove(engine_id)


def _key(engine_id: UUID) -> str:
    return f"watch {engine_id}"

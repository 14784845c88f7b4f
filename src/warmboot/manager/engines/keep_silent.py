"""Keeps engines whose VMs are there but do not answer, and adopts them when they answer.

    adoption ──no answer──▶ engine.unresponsive ──answers──▶ engine.answering, adopted
    it runs ──silent for long──▶   │
                                   └── its process ends, or its user stops it ──▶ gone

The engine keeps its state, as nothing of it is known to be lost; meanwhile its ``error`` says what
to do. Its front passes requests all the same: who waits for them may wait on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.core.tasks import Tasks
from warmboot.model.errors import VmGone, VmUnresponsive
from warmboot.model.journal.event import Event
from warmboot.model.tenants.engine import Engine, EngineState
from warmboot.store import Store

log = structlog.get_logger(__name__)

Adopt = Callable[[Engine, bool], Awaitable[None]]
"""Bring an engine into agreement with its VM, which answers or (``False``) is gone."""


class KeepSilent:
    def __init__(self, store: Store, host: HostAgent, events: EventLog, tasks: Tasks) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._tasks = tasks

    def on_event(self, event: Event) -> None:
        """An observer of the event log."""
        if event.kind in ("engine.booted", "engine.woken"):
            self.watch(UUID(event.subject_id), event.data["vm_id"])

    def watch(self, engine_id: UUID, vm_id: str) -> None:
        """Tell when it has been silent for long, until its VM's end."""
        self._tasks.keep_going(
            Work.KEEP_UNRESPONSIVE, f"silence {vm_id}", lambda: self._watch(engine_id, vm_id)
        )

    async def _watch(self, engine_id: UUID, vm_id: str) -> None:
        with contextlib.suppress(VmGone):  # its end is told by others
            while True:
                await self._host.vms.wait_silent(vm_id)
                engine = await self._store.engines.get(engine_id)
                if engine.state is EngineState.RUNNING:
                    await self._tell(engine, vm_id)
                watch = Stopwatch()
                await self._host.vms.until_answers(vm_id)
                await self._answers(engine_id, watch)

    async def keep(self, engine: Engine, adopt: Adopt) -> None:
        """One that did not answer when the manager came."""
        vm_id, watch = engine.vm_id, Stopwatch()
        assert vm_id is not None
        await self._tell(engine, vm_id)

        async def until_answers() -> None:
            answers = True
            try:
                await self._host.vms.until_answers(vm_id)
            except VmGone:
                answers = False
            if answers:
                await self._answers(engine.id, watch)
            found = await self._store.engines.get(engine.id)
            if found.state in (EngineState.RUNNING, EngineState.PAUSED):
                await adopt(found, answers)

        self._tasks.keep_going(Work.KEEP_UNRESPONSIVE, unresponsive_key(engine.id), until_answers)

    async def _tell(self, engine: Engine, vm_id: str) -> None:
        found = self._host.vms.unresponsive(vm_id)
        if found is None:
            return
        error = VmUnresponsive(
            f"the VM of the engine {engine.name} does not answer",
            details=f"{found.details}; it is kept, and nothing of it is known to be lost",
            resolution=found.resolution,
        )
        async with self._events.transaction() as emit:
            await self._store.engines.update(engine.id, error=error.as_dict())
            await emit("engine.unresponsive", engine.id, error=error.as_dict())

    async def _answers(self, engine_id: UUID, watch: Stopwatch) -> None:
        log.info(f"Engine {engine_id} answers again after {watch.elapsed_s:.2f}s")
        async with self._events.transaction() as emit:
            await self._store.engines.update(engine_id, error=None)
            await emit("engine.answering", engine_id, seconds=round(watch.elapsed_s, 4))


def unresponsive_key(engine_id: UUID) -> str:
    """The key of the task that waits for an engine's VM to answer, or to be gone."""
    return f"unresponsive {engine_id}"

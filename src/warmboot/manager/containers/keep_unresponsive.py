"""Keeps containers whose VMs exist but do not answer, and adopts them when they answer.

    adoption ──no answer──▶ container.unresponsive ──answers──▶ container.answering, adopted
    watched ──silent for long──▶   │                             (or watched as before)
                                   └── its process ends, or the user ends it ──▶ gone

The container keeps its state, as nothing of it is known to be lost; meanwhile its ``error`` says
what to do. Nobody but its user ends it. One task a VM watches it, from its boot or its adoption
until its end; a boot has limits of its own, so a VM is judged only when its container has run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.reconcile_failures import ReconcileFailures
from warmboot.manager.core.retry_until_stored import retry_until_stored, store_state
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.core.tasks import Tasks
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import NotFound, VmGone, VmUnresponsive
from warmboot.model.journal.event import Event
from warmboot.store import Store

log = structlog.get_logger(__name__)

KILLED = 137
"""The exit code of what SIGKILL has ended, as shells and Docker have it."""

_JUDGED = (ContainerState.RUNNING, ContainerState.EXITED)

Adopt = Callable[[UUID, bool], Awaitable[object]]
"""Bring a container into agreement with its VM, which answers or (``False``) is gone."""


class KeepUnresponsive:
    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        tasks: Tasks,
        watch: WatchContainer,
        reconcile_failures: ReconcileFailures,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._tasks = tasks
        self._watch = watch
        self._reconcile_failures = reconcile_failures

    def on_event(self, event: Event) -> None:
        """An observer of the event log."""
        if event.kind in ("container.booted", "container.woken"):
            self.watch(UUID(event.subject_id), event.data["vm_id"])

    def watch(self, container_id: UUID, vm_id: str) -> None:
        """Watch a container's VM until its end."""
        self._tasks.keep_going(
            Work.KEEP_UNRESPONSIVE,
            _watch_key(vm_id),
            lambda: self._watch_silence(container_id, vm_id),
        )

    async def _watch_silence(self, container_id: UUID, vm_id: str) -> None:
        async def watch_again(_: UUID, answers: bool) -> None:
            if answers:
                self.watch(container_id, vm_id)

        with contextlib.suppress(VmGone):  # its end is told by others
            while True:
                await self._host.vms.wait_silent(vm_id)
                container = await self._store.containers.get(container_id)
                if self._host.vms.unresponsive(vm_id) is not None and container.state in _JUDGED:
                    await self.keep(container, vm_id, watch_again)
                    return
                await self._host.vms.until_answers(vm_id)

    async def keep(self, container: Container, vm_id: str, adopt: Adopt) -> None:
        """Tell it, and have it adopted when its VM answers or is gone."""
        found = self._host.vms.unresponsive(vm_id)
        assert found is not None
        error = VmUnresponsive(
            f"the VM of container {container.name} does not answer",
            details=f"{found.details}; it is kept, and nothing of it is known to be lost",
            resolution=found.resolution,
        )
        self._reconcile_failures.note(_what(container), error, container.id)
        async with self._events.transaction() as emit:
            await self._store.containers.update(container.id, error=error.as_dict())
            await emit("container.unresponsive", container.id, error=error.as_dict())
        self._tasks.start(_key(container.id), self._until_answers(container, vm_id, adopt))

    async def stop(self, container: Container, timeout_s: float) -> None:
        """Give it this long to answer, or to end by itself, and end it then."""

        async def look() -> bool | None:
            return True if self._host.vms.unresponsive(container.vm_id) is None else None

        if await self._events.wait_for(look, timeout_s, container.id) is None:
            await self.end(container)

    async def end(self, container: Container) -> None:
        """The user wants it ended: its VM goes, its disk is kept. As if SIGKILL had ended it."""
        await self._tasks.cancel(_key(container.id))
        if container.vm_id is not None:
            await self._tasks.cancel(_watch_key(container.vm_id))
        await self._watch.stop(container.id)  # or it takes this for a failure
        await self._watch.vms.forget(container.id)
        self._reconcile_failures.clear(_what(container), container.id)
        log.warning(f"Container {container.id} did not answer, and was ended with its VM")
        await retry_until_stored(
            f"that container {container.id} is not paused", lambda: self._not_paused(container.id)
        )
        await store_state(
            self._store,
            self._events,
            container.id,
            ContainerState.EXITED,
            told=lambda _: {"exit_code": KILLED, "oom_killed": False},
            exit_code=KILLED,
            error=None,
            finished_at=datetime.now(UTC),
        )
        self._watch.start(container.id)  # it may be one that is to be removed at its end

    async def _not_paused(self, container_id: UUID) -> None:
        """A paused one ends as one that runs does."""
        container = await self._store.containers.get(container_id)
        if container.state is ContainerState.PAUSED:
            await self._store.containers.set_state(container_id, ContainerState.RUNNING)

    async def _until_answers(self, container: Container, vm_id: str, adopt: Adopt) -> None:
        watch, answers = Stopwatch(), True
        try:
            await self._host.vms.until_answers(vm_id)
        except VmGone:
            answers = False
        self._reconcile_failures.clear(_what(container), container.id)
        with contextlib.suppress(NotFound):  # it was removed
            if answers:
                await retry_until_stored(
                    f"that container {container.id} answers",
                    lambda: self._answers(container, watch),
                )
            await adopt(container.id, answers)

    async def _answers(self, container: Container, watch: Stopwatch) -> None:
        log.info(f"Container {container.id} answers again after {watch.elapsed_s:.2f}s")
        async with self._events.transaction() as emit:
            await self._store.containers.update(container.id, error=None)
            await emit("container.answering", container.id, seconds=round(watch.elapsed_s, 4))


def _what(container: Container) -> str:
    return f"contact with container {container.name}"


def _watch_key(vm_id: str) -> str:
    return f"silence {vm_id}"


def _key(container_id: UUID) -> str:
    return f"unresponsive {container_id}"

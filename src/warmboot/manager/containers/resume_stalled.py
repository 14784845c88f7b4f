"""Reports VMs that are stalled because the host's disk is full, and resumes them when it has space.

    running ──a write finds no room──▶ stalled ──room, by itself or by whoever frees some──▶ running
                 container.stalled                         container.resumed

The container keeps its state, as nothing of it is lost; meanwhile its ``error`` says what to do.
One task a container's VM waits, from its boot or its adoption until its end. What is told goes by
another: the database may be on the same disk, and letting the VM run on waits for no write. A VM
that stalls before Docker has answered fails its boot instead: there is nothing in it to be kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import retry_until_stored
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.core.tasks import Tasks
from warmboot.model.container import Container
from warmboot.model.errors import DiskFull, VmGone
from warmboot.model.journal.event import Event
from warmboot.store import Store

log = structlog.get_logger(__name__)

Tell = Callable[[UUID, str], Awaitable[None]]


class ResumeStalled:
    """``on_event`` is an observer of the event log; ``adopt`` is for VMs that were there before."""

    def __init__(self, store: Store, host: HostAgent, events: EventLog, tasks: Tasks) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._tasks = tasks

    def on_event(self, event: Event) -> None:
        if event.kind == "container.booted":
            self.watch(UUID(event.subject_id), event.data["vm_id"])

    async def adopt(self, container: Container, vm_id: str) -> None:
        """A VM that another manager has left: it may run on, or stand still, by now."""
        if container.error is not None:
            await self._store.containers.update(container.id, error=None)
        self.watch(container.id, vm_id)

    def watch(self, container_id: UUID, vm_id: str) -> None:
        """Watch a container's VM until its end."""
        self._tasks.keep_going(
            Work.RESUME_STALLED, f"stalled {vm_id}", lambda: self._watch(container_id, vm_id)
        )

    async def _watch(self, container_id: UUID, vm_id: str) -> None:
        with contextlib.suppress(VmGone):  # its end is told by others
            while True:
                await self._host.vms.wait_stalled(vm_id)
                log.error(f"Container {container_id} is stalled: the disk is full", vm=vm_id)
                watch = Stopwatch()
                self._store_soon(container_id, vm_id, self._stalled)
                await self._host.vms.resume_stalled(vm_id)
                log.info(f"Container {container_id} goes on after {watch.elapsed_s:.2f}s")
                self._store_soon(container_id, vm_id, partial(self._resumed, watch.elapsed_s))

    def _store_soon(self, container_id: UUID, vm_id: str, tell: Tell) -> None:
        """In the order of what happened, as soon as the database takes it."""

        async def told() -> None:
            await retry_until_stored(
                f"what container {container_id} does", lambda: tell(container_id, vm_id)
            )

        self._tasks.keep_going(Work.RESUME_STALLED, f"stalled-told {vm_id}", told)

    async def _resumed(self, stood_still_s: float, container_id: UUID, vm_id: str) -> None:
        async with self._events.transaction() as emit:
            await self._store.containers.update(container_id, error=None)
            await emit("container.resumed", container_id, seconds=round(stood_still_s, 4))

    async def _stalled(self, container_id: UUID, vm_id: str) -> None:
        stalled = DiskFull(
            "the disk is full: the container is stalled",
            details=f"its VM {vm_id} could not write to its disk; nothing is lost",
            resolution="free some space below MANAGER_STORAGE_ROOT (`warmboot gc`, `warmboot rm`, "
            "`warmboot snapshot rm`): it then continues automatically",
        )
        async with self._events.transaction() as emit:
            await self._store.containers.update(container_id, error=stalled.as_dict())
            await emit("container.stalled", container_id, error=stalled.as_dict())

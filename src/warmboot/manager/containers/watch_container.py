"""Watches running containers and records when they exit.

One task a container waits for Docker in the guest to say that the process has ended, or for the VMM
to be gone; whichever comes first is stored. A container that is to be removed when it has
ended is removed once its output was read to the end, or a moment later if nobody reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from uuid import UUID

import structlog

from warmboot.docker import unexecuted
from warmboot.docker.facts import ContainerFacts
from warmboot.host.agent import HostAgent
from warmboot.manager.containers.watch_health import WatchHealth
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import retry_until_stored, store_state
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.tenants.tenant_vms import TenantVms
from warmboot.manager.vms.slots import slot_of
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import (
    ContainerError,
    DiskFull,
    GuestError,
    HostError,
    IllegalTransition,
    NotFound,
    VmGone,
    WarmbootError,
)
from warmboot.model.vm import VmKind
from warmboot.store import Store
from warmboot.system.back_off import BackOff
from warmboot.system.concurrency import race

log = structlog.get_logger(__name__)

READ_GRACE_S = 5.0
"""How long an ended container that is to be removed waits for somebody to read its output."""

READ_LIMIT_S = 600.0
"""How long it waits for those who are reading it."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 15.0
"""Before Docker in a guest is asked again after a connection broke."""

_STORED_WITHIN_S = 10.0

_GOES_ON = (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.PARKING)


class ContainerLost(ContainerError):
    """The VM is there, the container in it is not."""

    code = "container-lost"


class _Streams:
    """How many read a container's output, whether anybody ever did, and whether nobody does now."""

    def __init__(self) -> None:
        self.open = 0
        self.begun = asyncio.Event()
        self.idle = asyncio.Event()


class WatchContainer:
    """``remove`` is called with the id of a container that is to go when it has ended."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        tasks: Tasks,
        remove: Callable[[UUID], Awaitable[None]],
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._tasks = tasks
        self._remove = remove
        self._streams: defaultdict[UUID, _Streams] = defaultdict(_Streams)
        self._last: dict[UUID, Container] = {}
        self._health = WatchHealth(store, host, events)
        self.vms = TenantVms(store, host, VmKind.CONTAINER)

    def start(self, container_id: UUID) -> None:
        self._tasks.keep_going(
            Work.WATCH_CONTAINERS, _key(container_id), lambda: self._watch(container_id)
        )

    async def stop(self, container_id: UUID) -> None:
        await self._tasks.cancel(_key(container_id))
        self._streams.pop(container_id, None)

    async def wait_until_stored(self, container_id: UUID) -> bool:
        """Wait a moment for an exit that has just happened; whether it is stored."""

        async def ended() -> Container | None:
            container = await self._store.containers.get(container_id)
            return None if container.state in _GOES_ON else container

        try:
            return await self._events.wait_for(ended, _STORED_WITHIN_S, container_id) is not None
        except NotFound:  # it was to be removed, and is
            return True

    @contextlib.contextmanager
    def streaming(self, container_id: UUID) -> Iterator[None]:
        """Somebody reads the container's output: it is not removed before they have it all."""
        streams = self._streams[container_id]
        streams.open += 1
        streams.begun.set()
        streams.idle.clear()
        try:
            yield
        finally:
            streams.open -= 1
            if streams.open == 0:
                streams.idle.set()

    def last_seen(self, container: Container) -> Container:
        """The container as it was when it ended: for those who asked before it was removed."""
        return self._last.pop(container.id, container)

    async def _watch(self, container_id: UUID) -> None:
        who = f"container {container_id}"
        container = await retry_until_stored(who, lambda: self._store.containers.get(container_id))
        if container.state not in _GOES_ON:
            if to_be_removed(container):
                # Those who wait for it learn why before it goes.
                await self._read_to_the_end(container_id)
                await self._remove_ended(container_id)
            return
        try:
            ended = await self._end(container)
        except (VmGone, ContainerLost) as error:
            await self.vm_lost(container_id, error)
            return
        except (IllegalTransition, NotFound):  # it is being removed
            return
        log.info(f"Container {container_id} exited with {ended.exit_code}")
        if container.spec.auto_remove:
            self._last[container_id] = ended
            await self._read_to_the_end(container_id)
            await retry_until_stored(f"the end of {who}", lambda: self._remove_ended(container_id))

    async def _end(self, container: Container) -> Container:
        """Wait for its end, and store it."""
        while True:
            async with self._health.watching(container):
                state = await self._until_end(container)
            await self._until_not_paused(container)  # one that is about to be parked keeps them
            await self._give_ports_back(container)
            refused = await self._not_executed(container, state)
            try:
                return await store_state(
                    self._store,
                    self._events,
                    container.id,
                    ContainerState.EXITED,
                    told=lambda now: {"exit_code": now.exit_code, "oom_killed": now.oom_killed},
                    ports=(),
                    exit_code=state.exit_code if refused is None else refused.exit_code,
                    error=None if refused is None else refused.as_dict(),
                    oom_killed=state.oom_killed,
                    finished_at=datetime.now(UTC),
                )
            except IllegalTransition:
                # It ended just before its VM stood still, or has run on before that is stored.
                await self._until_not_paused(container)

    async def _until_not_paused(self, container: Container) -> None:
        """Return when it is stored to run on, or its VM is gone; ``IllegalTransition`` if its end
        is of no interest any more.
        """
        assert container.vm_id is not None

        async def goes_on() -> bool | None:
            found = await retry_until_stored(
                f"container {container.id}", lambda: self._store.containers.get(container.id)
            )
            if found.state not in _GOES_ON:
                raise IllegalTransition(f"{found.name} is {found.state}")
            return True if found.state is ContainerState.RUNNING else None

        going_on, _ = await race(
            self._events.wait_for(goes_on, None, container.id),
            self._host.vms.wait_gone(container.vm_id),
        )
        if going_on is not None:
            going_on.result()

    async def _give_ports_back(self, container: Container) -> None:
        """Before its end is told: whoever hears of it finds them free."""
        if not container.spec.ports and not container.spec.publish_all:
            return
        for record in await self._store.vms.of_owner(container.id):
            try:
                await self._host.vms.unpublish(slot_of(record))
            except (HostError, OSError) as trouble:
                log.error("ports were not given back", vm=record.id, error=str(trouble))

    async def _not_executed(
        self, container: Container, state: ContainerFacts
    ) -> unexecuted.NotExecuted | None:
        """Why its program was not executed, which the runtime told in its output; ``None``: it
        was."""
        assert container.vm_id is not None
        assert container.docker_id is not None
        if state.exit_code != unexecuted.FAILED:
            return None
        try:
            docker = self._host.vms.link(container.vm_id).docker
            said = docker.output(container.docker_id, tty=container.spec.tty, tail=1)
            last = b"".join([chunk.data async for chunk in said])
        except WarmbootError as trouble:
            log.warning(
                "the last line of a log was not read", vm=container.vm_id, error=str(trouble)
            )
            return None
        return unexecuted.of_container(last, state.exit_code)

    async def _until_end(self, container: Container) -> ContainerFacts:
        assert container.vm_id is not None
        assert container.docker_id is not None
        leaving, ending = await race(
            self._host.vms.wait_gone(container.vm_id),
            self._docker_end(container.vm_id, container.docker_id),
        )
        if ending is None or (leaving is not None and ending.exception() is not None):
            raise VmGone(
                f"the VM of container {container.name} died",
                details=f"the VMM process of {container.vm_id} ended unexpectedly",
                resolution=f"`warmboot start {container.name}` boots it again on its disk",
            )
        return ending.result()

    async def _docker_end(self, vm_id: str, docker_id: str) -> ContainerFacts:
        back_off = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            try:
                await self._host.vms.pauses.until_runs(vm_id)
                docker = self._host.vms.link(vm_id).docker
                await docker.wait_stopped(docker_id)
                state = await docker.inspect(docker_id)
            except NotFound as error:
                raise ContainerLost(
                    "Docker in the VM no longer knows the container",
                    details=error.details,
                    resolution="remove it (`warmboot rm`), and run it again",
                ) from error
            except (GuestError, ContainerError, DiskFull) as error:
                # The connection broke. If the VM is dying, its end decides; else ask again.
                log.warning("lost sight of a container", vm=vm_id, error=error.details)
                await back_off.pause()
                continue
            if not state.running:
                return state

    async def vm_lost(self, container_id: UUID, error: WarmbootError) -> None:
        """Its VM is no more: it has failed, and keeps its disk."""
        await self.vms.lost(container_id, error)
        with contextlib.suppress(IllegalTransition, NotFound):
            await store_state(
                self._store,
                self._events,
                container_id,
                ContainerState.FAILED,
                told=lambda _: {"error": error.as_dict()},
                error=error.as_dict(),
                vm_id=None,
                ports=(),
                finished_at=datetime.now(UTC),
            )

    async def _read_to_the_end(self, container_id: UUID) -> None:
        streams = self._streams[container_id]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READ_GRACE_S):
                await streams.begun.wait()
            async with asyncio.timeout(READ_LIMIT_S):
                await streams.idle.wait()

    async def _remove_ended(self, container_id: UUID) -> None:
        with contextlib.suppress(NotFound):
            container = await self._store.containers.get(container_id)
            # It may have been started again; or its removal have begun, and failed half-way.
            if to_be_removed(container) or container.state is ContainerState.DELETING:
                await self._remove(container_id)


def to_be_removed(container: Container) -> bool:
    """Whether it has ended for good: it exited, or could not even be started."""
    never_ran = container.state is ContainerState.FAILED and container.started_at is None
    ended = never_ran or container.state is ContainerState.EXITED
    return container.spec.auto_remove and ended


def _key(container_id: UUID) -> str:
    return f"watch {container_id}"

"""Watches what the health checks of running containers find, and records it.

    Docker in the VM: health_status ──▶ look ──▶ another one: stored, container.health

Docker's events are a wake-up only: what is stored is what Docker says of the container then, so
none is missed while a connection is broken, or there is no manager.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import retry_until_stored
from warmboot.model.container import Container
from warmboot.model.errors import NotFound, WarmbootError
from warmboot.model.tenants.container_options import Health
from warmboot.store import Store
from warmboot.system.back_off import BackOff
from warmboot.system.concurrency import end

log = structlog.get_logger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 15.0
"""Before Docker in a guest is asked again after a connection broke."""


class WatchHealth:
    def __init__(self, store: Store, host: HostAgent, events: EventLog) -> None:
        self._store = store
        self._host = host
        self._events = events

    @contextlib.asynccontextmanager
    async def watching(self, container: Container) -> AsyncIterator[None]:
        """While the context lasts, unless it has no check."""
        if container.health is Health.NONE:
            yield
            return
        task = asyncio.create_task(self._watch(container))
        try:
            yield
        finally:
            await end(task)

    async def _watch(self, container: Container) -> None:
        assert container.vm_id is not None
        assert container.docker_id is not None
        back_off, last = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S), container.health
        while True:
            try:
                await self._host.vms.pauses.until_runs(container.vm_id)
                inside = self._host.vms.link(container.vm_id).docker.inside
                async with contextlib.aclosing(inside.health_changes(container.docker_id)) as told:
                    async for _ in told:
                        health = (await inside.health(container.docker_id)).status
                        if health is not last:
                            await self._store_health(container, health)
                            last = health
                        if health is Health.NONE:
                            return
            except NotFound:  # the container is no more
                return
            except WarmbootError as error:
                log.info("lost sight of a health check", vm=container.vm_id, error=error.brief)
            await back_off.pause()

    async def _store_health(self, container: Container, health: Health) -> None:
        async def store() -> None:
            async with self._events.transaction() as emit:
                await self._store.containers.update(container.id, health=health)
                if health in (Health.HEALTHY, Health.UNHEALTHY):
                    await emit("container.health", container.id, health=health)

        await retry_until_stored(f"the health of container {container.id}", store)

"""Starts the process of an exited container again, in the VM that it still has."""

from __future__ import annotations

from datetime import UTC, datetime

from warmboot.host.agent import HostAgent
from warmboot.host.guest.guest_containers import exposed_ports
from warmboot.manager.containers.host_ports import HostPorts
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import store_state
from warmboot.manager.folders.given_folders import told_as_here
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.vms.slots import slot_of
from warmboot.model.container import Container, ContainerState, PortMapping
from warmboot.model.tenants.container_options import Health
from warmboot.model.vm import VmRecord
from warmboot.store import Store
from warmboot.system.concurrency import finish
from warmboot.system.on_failure import on_failure


class StartAgain:
    """Call it with a container and its VM; the container runs, and is watched, when it returns."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        watch: WatchContainer,
        ports: HostPorts,
        folders: TenantFolders,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._watch = watch
        self._ports = ports
        self._folders = folders

    async def __call__(self, container: Container, record: VmRecord) -> None:
        """``Conflict`` if somebody else has its ports by now."""

        async def give_back() -> None:
            if container.spec.ports or container.spec.publish_all:
                await finish(self._host.vms.unpublish(slot_of(record)))

        async with on_failure(give_back):
            async with self._ports.free(container.spec, container.id):
                ports = await self._published(container, record)
            # Its server holds them as they were when it began: one may have come back since then.
            await self._folders.serve(container, record)
            with told_as_here(container.folders):
                await self._host.vms.link(record.id).docker.start(container.docker_id or "")
        await self._runs(container, ports)

    async def adopt(self, container: Container, record: VmRecord) -> None:
        """An earlier manager was killed when it had just started it."""
        ports: tuple[PortMapping, ...] = ()
        try:
            ports = await self._published(container, record)
        finally:
            await self._runs(container, ports)

    async def _published(self, container: Container, record: VmRecord) -> tuple[PortMapping, ...]:
        exposed = await exposed_ports(self._host.vms.link(record.id), container.spec)
        wanted = (*container.spec.ports, *exposed)
        return await self._host.vms.publish(slot_of(record), wanted)

    async def _runs(self, container: Container, ports: tuple[PortMapping, ...]) -> None:
        health = Health.NONE if container.health is Health.NONE else Health.STARTING
        await store_state(
            self._store,
            self._events,
            container.id,
            ContainerState.RUNNING,
            told=lambda _: {},
            ports=ports,
            health=health,
            started_at=datetime.now(UTC),
            finished_at=None,
            exit_code=None,
            error=None,
        )
        self._watch.start(container.id)

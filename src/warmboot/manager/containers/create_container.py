"""Notes a container that was asked for, once all that can be checked without a VM was checked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from warmboot.host.agent import HostAgent
from warmboot.manager.containers.archives import ArchiveFiles
from warmboot.manager.containers.host_ports import HostPorts
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.images.choose_image import choose_image
from warmboot.manager.tenants.moments import begun_from
from warmboot.model.container import Container, ContainerSpec, ContainerState
from warmboot.model.shapes import Shape
from warmboot.store import Store


class CreateContainer:
    """Call it with what is wanted, and whether it is to be started ``now``."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        archives: ArchiveFiles,
        ports: HostPorts,
        folders: TenantFolders,
        default_shape: Shape,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._archives = archives
        self._ports = ports
        self._folders = folders
        self._default_shape = default_shape

    async def __call__(
        self, spec: ContainerSpec, *, now: bool, container_id: UUID | None = None
    ) -> Container:
        self._host.check_shape(spec.shape, self._default_shape)
        if now:
            await self._host.ensure_memory(spec.shape or self._default_shape)
        self._host.check_platform(spec.options.platform)
        image_id = await choose_image(self._store, spec.runtime_image_id)
        if spec.archive is not None and not spec.snapshot:
            await self._archives.check_has(spec.archive, spec.image)
        if not spec.snapshot:
            spec = replace(spec, folders=await self._folders.checked_for(spec))
        async with self._ports.free(spec, now=now) as free, self._events.transaction() as emit:
            container = Container(
                id=container_id or uuid4(),
                spec=free,
                state=ContainerState.CREATING if now else ContainerState.CREATED,
                created_at=datetime.now(UTC),
                shape=spec.shape or self._default_shape,
                runtime_image_id=image_id,
                ports=free.ports if now else (),
            )
            await self._store.containers.add(container)
            if container.snapshot_id is not None:
                moment = await self._store.snapshots.get(container.snapshot_id)
                await begun_from(self._store, moment, container.id)
            if now:
                await emit("container.creating", container.id, name=spec.name)
            else:
                await emit("container.created", container.id, name=spec.name)
        return container

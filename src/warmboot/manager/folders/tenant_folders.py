"""Folders of the host that engines and containers are given: which may be, and what happens to them
in a fork.

    create: checked ─▶ booted ─▶ served by a process of its owner's ─▶ mounted ─▶ socket, or program
    fork:   the same folders, which are read-only there

Nothing is left to be undone: the process ends with the VM, whoever ended that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.folders.folder_server import PORT, Serving
from warmboot.manager.folders.given_folders import (
    bound_by,
    check_nested,
    found,
    looked,
    places_of,
    shared_with,
)
from warmboot.manager.vms.slots import slot_of
from warmboot.model.container import Container, ContainerSpec
from warmboot.model.errors import GuestError, HostError, InvalidRequest, NotSupported, WarmbootError
from warmboot.model.runtime_snapshot import FOLDERS, RuntimeSnapshot
from warmboot.model.tenants.container_options import MountType
from warmboot.model.tenants.engine import Engine, EngineSpec
from warmboot.model.tenants.host_folder import HostFolder, as_frozen
from warmboot.model.vm import VmRecord
from warmboot.store import Store

log = structlog.get_logger(__name__)

Tenant = Container | Engine


class TenantFolders:
    """``shared``: those that engines get without having asked, if their owners may read them."""

    def __init__(self, store: Store, host: HostAgent, shared: Sequence[HostFolder] = ()) -> None:
        self._store = store
        self._host = host
        self._shared = shared

    async def checked(
        self, spec: EngineSpec, moment: RuntimeSnapshot | None
    ) -> tuple[HostFolder, ...]:
        """The folders of a new engine: those asked for, and read-only those that its snapshot has;
        without a snapshot the shared ones. A fork's may be asked for to be written to.

        ``InvalidRequest``, ``NotSupported``.
        """
        by_path = await self._asked(spec.folders)
        if moment is None and self._possible:
            for folder in await shared_with(spec.owner_uid, self._shared, by_path.values()):
                by_path[folder.path] = folder
        check_nested(list(by_path.values()))
        for folder in folders_at(moment):
            asked = by_path.setdefault(folder.path, folder)
            if not asked.read_only and moment is not None and moment.name is not None:
                raise InvalidRequest(
                    f"the folder {folder.path} comes with the snapshot, and is read-only",
                    details="programs that were frozen would write there what is old by now",
                    resolution=f"leave it out, or give it as {folder.path}:ro",
                )
        if by_path:
            self._check_host(spec.host_ports)
        return tuple(by_path.values())

    async def checked_for(self, spec: ContainerSpec) -> tuple[HostFolder, ...]:
        """The folders of a new container: those asked for, and those of the shared ones of
        which it mounts something. ``InvalidRequest``, ``NotSupported``."""
        asked = await self._asked(spec.folders)
        check_nested(list(asked.values()))
        sources = bound_by(spec.options)
        if not asked and not sources:
            return ()
        shared: Sequence[HostFolder] = ()
        if self._possible:
            shared = await shared_with(spec.owner_uid, self._shared, asked.values())
        given = (*asked.values(), *shared)
        places = await looked(partial(places_of, sources, given))
        if given:
            self._check_host(())
        used = {folder.path for folder, _ in places.values()}
        return (*asked.values(), *(one for one in shared if one.path in used))

    async def mounted(self, spec: ContainerSpec) -> ContainerSpec:
        """The same, with the places in its VM that its mounts mean: links count as they are now.

        ``InvalidRequest``.
        """
        if not (sources := bound_by(spec.options)):
            return spec
        places = await looked(partial(places_of, sources, spec.folders))
        mounts = [
            replace(one, source=places[one.source][1]) if one.type is MountType.BIND else one
            for one in spec.options.mounts
        ]
        return replace(spec, options=replace(spec.options, mounts=tuple(mounts)))

    @property
    def _possible(self) -> bool:
        return self._host.vms.engine_network is not None

    async def _asked(self, folders: Sequence[HostFolder]) -> dict[str, HostFolder]:
        by_path: dict[str, HostFolder] = {}
        for asked in folders:
            try:
                folder = await looked(partial(found, asked))
            except InvalidRequest:
                if not asked.optional:
                    raise
                folder = asked  # of the source of a fork, which has mounted it, and it is gone
            if folder.path in by_path:
                raise InvalidRequest(
                    f"the folder {folder.path} is given twice",
                    resolution="give it once, with :ro if it is to be read only",
                )
            by_path[folder.path] = folder
        return by_path

    def _check_host(self, host_ports: Sequence[int]) -> None:
        """``InvalidRequest``, ``NotSupported`` where no folders can be given."""
        if PORT in host_ports:
            raise InvalidRequest(
                f"the port {PORT} of the host cannot be given together with folders",
                details="it is where the engine finds them",
                resolution="have the host's program listen at another port",
            )
        if self._host.vms.mirror_port == PORT:
            raise InvalidRequest(
                f"folders cannot be given while the mirror of registries is at the port {PORT}",
                details="it is where a VM finds its folders",
                resolution="have the mirror listen at another port, and set "
                "MANAGER_REGISTRY_MIRROR to it",
            )
        if not self._possible:
            raise InvalidRequest(
                "this hypervisor has no network, through which folders could be given",
                resolution="leave the folders out, or use QEMU or Firecracker",
            )
        if os.geteuid() != 0:
            raise NotSupported(
                "only a manager that runs as root can give folders to VMs",
                resolution="leave the folders out, or run the manager as root",
            )

    async def bring(self, tenant: Tenant, record: VmRecord) -> None:
        """Serve them to its VM, and have them mounted there: all of them. Idempotent."""
        refused = await self._host.folders.serve(record.id, self._serving(tenant, record))
        try:
            link = self._host.vms.link(record.id)
            ids = [folder.id for folder in tenant.spec.folders]
            await link.mount_folders([one for one in ids if one not in refused])
        except GuestError as error:
            raise HostError(
                f"the folders of {tenant.name} are not mounted in it",
                details=error.details or error.brief,
                resolution="if its runtime image is of an earlier warmboot, build a new one "
                "(`warmboot runtime build`) and register it",
            ) from error

    async def adopt(self, tenant: Tenant) -> None:
        """The same for a VM that another manager brought up, and has mounted them."""
        if not tenant.spec.folders or tenant.vm_id is None:
            return
        for record in await self._store.vms.of_owner(tenant.id):
            if record.id == tenant.vm_id:
                try:
                    await self.serve(tenant, record)
                except (WarmbootError, OSError) as error:
                    log.error(f"The folders of {tenant.id} are not served", error=str(error))

    async def serve(self, tenant: Tenant, record: VmRecord) -> None:
        """To a VM that has mounted them: those that are there still."""
        if tenant.spec.folders:
            await self._host.folders.serve_again(record.id, self._serving(tenant, record))

    def _serving(self, tenant: Tenant, record: VmRecord) -> Serving:
        vms, slot = self._host.vms, slot_of(record)
        assert slot is not None
        vmm = vms.endpoint(record.id)
        return Serving(
            *(vms.root / record.id, slot, vmm.pid, vmm.start_time_ticks, tenant.spec.owner_uid),
            tenant.spec.folders,
        )


def folders_at(moment: RuntimeSnapshot | None) -> Sequence[HostFolder]:
    """What it had, as it is for what goes on from it."""
    paths = () if moment is None else moment.metadata.get(FOLDERS) or ()
    return [as_frozen(str(path)) for path in paths]

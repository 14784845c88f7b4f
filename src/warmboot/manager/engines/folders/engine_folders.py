"""Folders of the host that engines are given: which may be, and what happens to them in a fork.

    create: checked ─▶ booted ─▶ served by a process of its owner's ─▶ mounted ─▶ socket
    fork:   the same folders, which are read-only there

Nothing is left to be undone: the process ends with the engine's VM, whoever ended that.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.folders.folder_server import PORT, Serving
from warmboot.manager.engines.folders.given_folders import check_nested, found, shared_with
from warmboot.manager.vms.slots import slot_of
from warmboot.model.errors import GuestError, HostError, InvalidRequest, NotSupported, WarmbootError
from warmboot.model.runtime_snapshot import FOLDERS, RuntimeSnapshot
from warmboot.model.tenants.engine import Engine, EngineSpec
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.model.vm import VmRecord
from warmboot.store import Store

log = structlog.get_logger(__name__)


class EngineFolders:
    """``shared``: those that engines get without having asked, if their owners may read them."""

    def __init__(self, store: Store, host: HostAgent, shared: Sequence[HostFolder] = ()) -> None:
        self._store = store
        self._host = host
        self._shared = shared

    async def checked(
        self, spec: EngineSpec, moment: RuntimeSnapshot | None
    ) -> tuple[HostFolder, ...]:
        """The folders of a new engine: those asked for, and read-only those that its snapshot has;
        without a snapshot the shared ones.

        ``InvalidRequest``, ``NotSupported``.
        """
        asked = [await asyncio.to_thread(found, folder) for folder in spec.folders]
        by_path: dict[str, HostFolder] = {}
        for folder in asked:
            if folder.path in by_path:
                raise InvalidRequest(
                    f"the folder {folder.path} is given twice",
                    resolution="give it once, with :ro if it is to be read only",
                )
            by_path[folder.path] = folder
        if moment is None and self._host.vms.engine_network is not None:
            for folder in await shared_with(spec.owner_uid, self._shared, asked):
                by_path[folder.path] = folder
        check_nested(list(by_path.values()))
        for folder in folders_at(moment):
            if not by_path.setdefault(folder.path, folder).read_only:
                raise InvalidRequest(
                    f"the folder {folder.path} comes with the snapshot, and is read-only",
                    details="programs that were frozen would write there what is old by now",
                    resolution=f"leave it out, or give it as {folder.path}:ro",
                )
        if by_path and PORT in spec.host_ports:
            raise InvalidRequest(
                f"the port {PORT} of the host cannot be given together with folders",
                details="it is where the engine finds them",
                resolution="have the host's program listen at another port",
            )
        if by_path and self._host.vms.mirror_port == PORT:
            raise InvalidRequest(
                f"folders cannot be given while the mirror of registries is at the port {PORT}",
                details="it is where the engine finds its folders",
                resolution="have the mirror listen at another port, and set "
                "MANAGER_REGISTRY_MIRROR to it",
            )
        if by_path and self._host.vms.engine_network is None:
            raise InvalidRequest(
                "this hypervisor has no network, through which folders could be given",
                resolution="leave the folders out, or use QEMU or Firecracker",
            )
        if by_path and os.geteuid() != 0:
            raise NotSupported(
                "only a manager that runs as root can give folders to engines",
                resolution="leave the folders out, or run the manager as root",
            )
        return tuple(by_path.values())

    async def bring(self, engine: Engine, record: VmRecord) -> None:
        """Serve them to its VM, and have them mounted there: all of them. Idempotent."""
        refused = await self._host.folders.serve(record.id, self._serving(engine, record))
        try:
            link = self._host.vms.link(record.id)
            ids = [folder.id for folder in engine.spec.folders]
            await link.mount_folders([one for one in ids if one not in refused])
        except GuestError as error:
            raise HostError(
                f"the folders of the engine {engine.name} are not mounted in it",
                details=error.details or error.brief,
                resolution="if its runtime image is of an earlier warmboot, build a new one "
                "(`warmboot runtime build`) and register it",
            ) from error

    async def adopt(self, engine: Engine) -> None:
        """The same for a VM that another manager brought up, and has mounted them."""
        if not engine.spec.folders or engine.vm_id is None:
            return
        for record in await self._store.vms.of_owner(engine.id):
            if record.id == engine.vm_id:
                try:
                    await self.serve(engine, record)
                except (WarmbootError, OSError) as error:
                    log.error(f"The folders of engine {engine.id} are not served", error=str(error))

    async def serve(self, engine: Engine, record: VmRecord) -> None:
        """To a VM that has mounted them: those that are there still."""
        if engine.spec.folders:
            await self._host.folders.serve_again(record.id, self._serving(engine, record))

    def _serving(self, engine: Engine, record: VmRecord) -> Serving:
        vms, slot = self._host.vms, slot_of(record)
        assert slot is not None
        vmm = vms.endpoint(record.id)
        return Serving(
            *(vms.root / record.id, slot, vmm.pid, vmm.start_time_ticks, engine.spec.owner_uid),
            engine.spec.folders,
        )


def folders_at(moment: RuntimeSnapshot | None) -> Sequence[HostFolder]:
    """What it had. Read-only: what goes on in it is older than what is in the folders by now."""
    paths = () if moment is None else moment.metadata.get(FOLDERS) or ()
    return [HostFolder(str(path), read_only=True) for path in paths]

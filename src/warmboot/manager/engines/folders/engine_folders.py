"""Folders of the host that engines are given: which may be, and what happens to them in a fork.

    create: checked ─▶ booted ─▶ served by a process of its owner's ─▶ mounted ─▶ socket
    fork:   the same folders, which are read-only there

Nothing is left to be undone: the process ends with the engine's VM, whoever ended that.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.folders.folder_server import PORT, Serving
from warmboot.manager.vms.slots import slot_of
from warmboot.model.errors import GuestError, HostError, InvalidRequest, NotSupported, WarmbootError
from warmboot.model.runtime_snapshot import FOLDERS, RuntimeSnapshot
from warmboot.model.tenants.engine import Engine, EngineSpec
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.model.vm import VmRecord
from warmboot.store import Store

log = structlog.get_logger(__name__)

_NEVER = ("/dev", "/proc", "/sys")
"""What is in them are no files, and some of it leads out."""


class EngineFolders:
    def __init__(self, store: Store, host: HostAgent) -> None:
        self._store = store
        self._host = host

    async def checked(
        self, spec: EngineSpec, moment: RuntimeSnapshot | None
    ) -> tuple[HostFolder, ...]:
        """The folders of a new engine: those asked for, and read-only those that its snapshot has.

        ``InvalidRequest``, ``NotSupported``.
        """
        asked = [await asyncio.to_thread(_found, folder) for folder in spec.folders]
        by_path: dict[str, HostFolder] = {}
        for folder in asked:
            if folder.path in by_path:
                raise InvalidRequest(
                    f"the folder {folder.path} is given twice",
                    resolution="give it once, with :ro if it is to be read only",
                )
            by_path[folder.path] = folder
        _check_nested(asked)
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
        await self._host.folders.serve(record.id, self._serving(engine, record))
        try:
            link = self._host.vms.link(record.id)
            await link.mount_folders([folder.id for folder in engine.spec.folders])
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


def _check_nested(folders: Sequence[HostFolder]) -> None:
    """``InvalidRequest`` for one that would be read-only by its own name alone."""
    for inner in folders:
        for outer in folders:
            if (
                inner.read_only
                and not outer.read_only
                and PurePosixPath(inner.path).is_relative_to(outer.path)
            ):
                raise InvalidRequest(
                    f"the folder {inner.path} cannot be read-only",
                    details=f"it is in {outer.path}, which is given to be written to",
                    resolution=f"give {outer.path}:ro, or only folders that are not in each other",
                )


def _found(folder: HostFolder) -> HostFolder:
    """By the path that leads there through no link. Blocks."""
    try:
        path = str(Path(folder.path).resolve())
        found = Path(path).stat()
        path.encode()  # as the guest is told of it, and the database
    except (OSError, RuntimeError, ValueError) as error:  # the second for links that go in circles
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise InvalidRequest(
            f"the folder {folder.path} cannot be given to an engine",
            details=why,
            resolution="give one that exists on the manager's machine",
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidRequest(
            f"{folder.path} is no folder", resolution="give the folder that it is in"
        )
    if path == "/" or any(PurePosixPath(path).is_relative_to(one) for one in _NEVER):
        raise InvalidRequest(
            f"the folder {path} is never given to an engine",
            details="it is, or has in it, what the kernel shows of this machine",
            resolution="give the folder that has the files which are needed",
        )
    return replace(folder, path=path)

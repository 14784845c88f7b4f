"""The host agent: what the manager has of this machine.

    vms         folders, processes, guests, ports: from the reservation to the end
    snapshots   their folders, sums and forms
    images      the runtime images that are stored here, and their checks
    storage     the disk below all of them: room, caches, what lies about
    network     slots and rules; none where the hypervisor has no networking
    front       the process that serves the engines' sockets
    certificates   of engines that are reached over TCP
    folders     the processes that serve folders of this machine to VMs

The manager reaches the machine through these and nothing below them: a contract of import-linter
says which names it may know beside this module's.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence

from warmboot.host.engine_certificates import EngineCertificates
from warmboot.host.engine_front import EngineFront
from warmboot.host.folders.folder_servers import FolderServers
from warmboot.host.host_config import HostConfig
from warmboot.host.network import Network
from warmboot.host.snapshots.memory_cache import MemoryCache
from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.host.storage.disk_scan import DiskScan
from warmboot.host.storage.storage import Storage
from warmboot.host.storage.stored_images import StoredImages
from warmboot.host.vm.protected import NOTHING, Protected
from warmboot.host.vm.vm_files import VMM_GID
from warmboot.host.vms import Vms
from warmboot.hypervisors.base import Hypervisor, Probe
from warmboot.hypervisors.confinement import Confinement
from warmboot.model.errors import MemoryFull
from warmboot.model.shapes import Capacity, Shape
from warmboot.model.tenants.container_options import check_platform
from warmboot.model.vm import VmRecord
from warmboot.system import usage

GiveWay = Callable[[int], Awaitable[None]]
"""Ends what was made ahead of need until so many MiB of memory are free."""


async def nobody_gives_way(needed_mib: int) -> None:
    """There is nothing that was made ahead of need."""


class HostAgent:
    """One machine. ``start`` before use, ``stop`` after; VMs outlive it."""

    def __init__(
        self,
        config: HostConfig,
        hypervisor: Hypervisor,
        network: Network | None,
        snapshots: SnapshotFiles,
        confinement: Confinement | None = None,
    ) -> None:
        self.hypervisor = hypervisor
        self.network = network
        self.snapshots = snapshots
        self.confinement = confinement or Confinement()
        cache = MemoryCache(
            config.root / "cache" / "memory",
            VMM_GID,
            config.memory_cache_bytes,
            lambda: self.vms.handles(),
        )
        self.storage = Storage(config.root, config.disk_floor_bytes, cache, DiskScan(config.root))
        self.images = StoredImages(config.root)
        self.certificates = EngineCertificates(config.root / "engine-certificates")
        self.front = EngineFront(config.run_folder, config.socket_gid)
        self.folders = FolderServers(self.confinement)
        self.give_way: GiveWay = nobody_gives_way
        self.vms = Vms(config, hypervisor, network, snapshots, self.storage, self.confinement)

    async def probe(self) -> Probe:
        return await self.hypervisor.probe()

    def capacity(self) -> Capacity:
        """The processors and the memory of this machine."""
        return usage.capacity()

    def cpu_s(self, vm_id: str) -> float | None:
        """The processor time that a VM has used since its start; ``None`` if it is gone."""
        found = (usage.cpu_s_of(one) for one in self.vms.handles() if one.vm_id == vm_id)
        return next(found, None)

    def free_memory_mib(self) -> int:
        return usage.free_memory_mib()

    def check_platform(self, platform: str) -> None:
        """``InvalidRequest`` if VMs are not of it; empty: whatever they are of."""
        check_platform(platform, os.uname().machine)

    def check_shape(self, asked: Shape | None, default: Shape) -> None:
        """``InvalidRequest`` for a shape that this host never has; see ``ensure_memory``, too."""
        if asked is not None:
            self.capacity().check(asked, default)

    async def have_free(self, memory_mib: int) -> int:
        """The MiB that are free, which may be less than these: only when the warm pool has given
        way."""
        await self.give_way(memory_mib)
        return self.free_memory_mib()

    async def ensure_memory(self, shape: Shape) -> None:
        """``MemoryFull`` if less is free than a VM of this shape may come to use."""
        free_mib = await self.have_free(shape.memory_mib)
        if free_mib >= shape.memory_mib:
            return
        running = len(self.vms.handles())
        raise MemoryFull(
            f"{shape.memory_mib} MiB of memory are not free on this host",
            details=f"of its {self.capacity().memory_mib} MiB {free_mib} MiB are; {running} VMs "
            "run on it, and what the warm pool has would not suffice",
            resolution="stop containers or engines, or ask for less memory (`--memory`)",
        )

    async def start(self, records: Sequence[VmRecord], protected: Protected = NOTHING) -> list[str]:
        """Take over what an earlier manager left; returns the ids of VMs that are lost."""
        await self.storage.make_folders(self.vms.root, self.snapshots.root)
        await self.storage.cache.tidy()
        return await self.vms.start(records, protected)

    async def stop(self) -> None:
        """Let go of everything; the VMs run on, and so do their engines' sockets."""
        await self.front.stop()
        await self.folders.let_go()
        await self.vms.stop()

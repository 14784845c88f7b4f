"""The size of engines' disks: what may be asked for, how they grow, and what is used of them.

    create: checked ─▶ booted with the image's size ─▶ grown while it runs, before it is handed over

A disk is sparse: its size is a bound, and not room that is set aside. What is freed in the guest
comes back to the host.
"""

from __future__ import annotations

from uuid import UUID

from warmboot.host.agent import HostAgent
from warmboot.manager.tenants.park_tenant import AROUND_PARKED
from warmboot.model.errors import InvalidRequest, NotSupported
from warmboot.model.tenants.engine import Engine, EngineSpec
from warmboot.model.usage import DiskUsage
from warmboot.store import Store

_MIB = 1 << 20


class EngineDisks:
    """``most_mib`` is the largest that may be asked for."""

    def __init__(self, store: Store, host: HostAgent, most_mib: int) -> None:
        self._store = store
        self._host = host
        self._most_mib = most_mib

    async def check(self, spec: EngineSpec, image_id: UUID) -> None:
        """``InvalidRequest`` for a size that cannot be, ``NotSupported`` where none can be had."""
        if spec.disk_mib is None:
            return
        probe = await self._host.probe()
        if not probe.capabilities.disk_grows:
            raise NotSupported(
                f"disks of {probe.host.hypervisor} VMs keep the size that the runtime image has",
                resolution="leave the size out, or use QEMU (MANAGER_HYPERVISOR=qemu)",
            )
        image = await self._store.images.get(image_id)
        least_mib = -(-image.manifest.files["disk"].size_bytes // _MIB)
        if spec.disk_mib < least_mib:
            raise InvalidRequest(
                f"a disk of {spec.disk_mib} MiB is too small",
                details=f"that of the runtime image {image.name} has {least_mib} MiB, and disks "
                "only grow",
                resolution=f"ask for {least_mib} MiB or more, or leave the size out",
            )
        usage = self._host.storage.usage()
        here_mib = (usage.total_bytes - usage.floor_bytes) // _MIB
        if spec.disk_mib > min(self._most_mib, here_mib):
            raise InvalidRequest(
                f"a disk of {spec.disk_mib} MiB is too large",
                details=f"MANAGER_ENGINE_DISK_MIB allows {self._most_mib} MiB, and this host's "
                f"own disk can hold {here_mib} MiB",
                resolution=f"ask for {min(self._most_mib, here_mib)} MiB at most",
            )

    async def grow(self, engine: Engine) -> None:
        """Have the disk of a running engine be as large as was asked. Idempotent."""
        assert engine.vm_id is not None
        assert engine.spec.disk_mib is not None
        await self._host.vms.grow_disk(engine.vm_id, engine.spec.disk_mib * _MIB)

    async def usage(self, engine: Engine) -> DiskUsage:
        """What is used of it; nothing before its VM is made. A parked one has it in its moment."""
        for record in await self._store.vms.of_owner(engine.id):
            return await self._host.vms.disk_usage(record)
        if engine.state in AROUND_PARKED:
            for snapshot_id in await self._store.snapshots.leased_by(str(engine.id)):
                moment = await self._store.snapshots.get(snapshot_id)
                return await self._host.vms.frozen_disk_usage(moment.snapshot_path)
        return DiskUsage(0)

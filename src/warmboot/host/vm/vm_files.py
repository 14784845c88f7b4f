"""Prepares the files of a VM before it runs: its folder, its two disks, and its spec.

The root file system is read-only and shared; the other disk is the VM's own: an overlay or a copy
of its source's, or the one that an earlier life of the same VM has left. VMMs run as users of their
own, so what they are to read or write is handed to them here.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from warmboot.host.network import Slot
from warmboot.host.snapshots.moments import frozen_disk
from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.host.vm import disk_layers
from warmboot.hypervisors.base import Hypervisor
from warmboot.hypervisors.process import user_rights
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import DISK_FILE, ROOTFS_FILE, Moment, SnapshotManifest
from warmboot.model.shapes import Shape
from warmboot.model.vm import Disk, DiskFormat, Nic, VmSpec
from warmboot.system import disks

VMM_GID = 620_000
"""The group that VMMs run as; it may read runtime images and snapshots, and nothing else."""


@dataclass(frozen=True, slots=True)
class DiskSource:
    """What a VM's two disks come from; ``keep`` is the writable disk of the
    VM's own earlier life, ``frozen`` that of a VM in use as it was."""

    rootfs: Path
    base: Path
    keep: Disk | None = None
    frozen: Disk | None = None


def image_disks(image: RuntimeImage) -> DiskSource:
    return DiskSource(rootfs=image.rootfs, base=image.disk)


def snapshot_disks(snapshot: Path) -> DiskSource:
    return DiskSource(rootfs=snapshot / ROOTFS_FILE, base=snapshot / DISK_FILE)


def moment_disks(snapshot: Path, moment: Moment) -> DiskSource:
    return replace(snapshot_disks(snapshot), frozen=frozen_disk(snapshot, moment))


def disks_of(snapshot: Path, manifest: SnapshotManifest) -> DiskSource:
    """Those of a VM that is restored from a snapshot of any depth."""
    moment = manifest.moment
    return snapshot_disks(snapshot) if moment is None else moment_disks(snapshot, moment)


def kept_disk(spec: VmSpec) -> Disk:
    """The writable disk of a VM that is no more."""
    disk = next(disk for disk in spec.disks if not disk.read_only)
    if disk.format is DiskFormat.QCOW2 and disk.base is None:  # from before that was noted
        rootfs = next(disk.path for disk in spec.disks if disk.read_only)
        return replace(disk, base=rootfs.with_name(DISK_FILE))
    return disk


@dataclass(frozen=True, slots=True)
class VmFiles:
    """VMs' folders, one below ``root`` each; ``snapshots`` has the templates that are built."""

    root: Path
    hypervisor: Hypervisor
    snapshots: SnapshotFiles
    overlays: disks.Overlays = field(default_factory=disks.Overlays)

    async def make(
        self,
        vm_id: str,
        image: RuntimeImage,
        shape: Shape,
        slot: Slot | None,
        source: DiskSource,
        template_dir: Path | None,
        background: bool,
    ) -> VmSpec:
        uid = slot.uid if slot is not None and os.geteuid() == 0 else 0
        folder = self.root / vm_id
        await asyncio.to_thread(_make_vm_folder, folder, uid)
        if template_dir is not None:
            disk = Disk(template_dir / DISK_FILE)
            await self.snapshots.hand_over(template_dir, uid)
        else:
            disk = await self._make_disk(folder, source, uid)
        return VmSpec(
            id=vm_id,
            run_dir=folder,
            shape=shape,
            kernel=image.kernel,
            initrd=image.initrd,
            cmdline=image.manifest.cmdline,
            disks=(Disk(source.rootfs, read_only=True), disk),
            nic=None if slot is None else _nic(slot),
            template_dir=template_dir,
            uid=uid,
            gid=VMM_GID if uid else 0,
            background=background,
        )

    async def renew_disk(self, spec: VmSpec, source: DiskSource) -> None:
        """Make the writable disk of a VM that does not run anew: what was written to it is gone."""
        for path in (kept_disk(spec).path, *disk_layers.layers(spec.run_dir)):
            await asyncio.to_thread(path.unlink, missing_ok=True)
        await self._make_disk(spec.run_dir, source, spec.uid)

    async def _make_disk(self, folder: Path, source: DiskSource, uid: int) -> Disk:
        capabilities = (await self.hypervisor.probe()).capabilities
        suffix = "qcow2" if capabilities.qcow2_overlays else "ext4"
        target = folder / f"disk.{suffix}"
        if source.keep is not None:
            disk = source.keep
            await disk_layers.merge(disk, user_rights(uid, VMM_GID) if uid else ())
        elif source.frozen is not None:
            disk = await disk_layers.fork_disk(source.frozen, folder)
        elif capabilities.qcow2_overlays:
            disk = await self.overlays.make(source.base, target)
        else:
            disk = await disks.copy(source.base, target)
        if uid:
            os.chown(disk.path, uid, VMM_GID, follow_symlinks=False)
        return disk


def _nic(slot: Slot) -> Nic:
    return Nic(
        namespace=slot.namespace, tap=slot.tap, guest_mac=slot.guest_mac, guest_ip=slot.guest_ip
    )


def _make_vm_folder(folder: Path, uid: int) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if uid:
        # With all that an earlier VM in it has left: that one ran as another user. Not the layers
        # of its disk, which may be others', too.
        for path in {folder, *folder.iterdir()}.difference(disk_layers.layers(folder)):
            os.chown(path, uid, VMM_GID, follow_symlinks=False)

"""What a VM's disk lies on is noted, and found again for what did not note it."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import pytest

from warmboot.host.vm import disk_layers
from warmboot.host.vm.vm_files import kept_disk
from warmboot.model.errors import HostError
from warmboot.model.shapes import Shape
from warmboot.model.vm import Disk, DiskFormat, VmSpec
from warmboot.system import disks

IMAGE, RUN = Path("/srv/fc/runtime-images/abc"), Path("/srv/fc/vms/vm-1")
ROOT = Disk(IMAGE / "rootfs.ext4", read_only=True)
OVERLAY = Disk(RUN / "disk.qcow2", format=DiskFormat.QCOW2)


def spec(*vm_disks: Disk) -> VmSpec:
    return VmSpec("vm-1", RUN, Shape(1, 256), IMAGE / "kernel", None, "quiet", vm_disks)


async def test_an_overlay_says_what_it_lies_on(tmp_path: Path) -> None:
    base = tmp_path / "base.ext4"
    base.write_bytes(bytes(4096))
    made = await disks.overlay(base, tmp_path / "disk.qcow2")
    assert made == Disk(tmp_path / "disk.qcow2", format=DiskFormat.QCOW2, base=base)
    assert base in spec(ROOT, made).files


async def test_overlays_of_one_base_are_the_same_and_another_base_has_another(
    tmp_path: Path,
) -> None:
    base, overlays = tmp_path / "base.ext4", disks.Overlays()
    for size in (4096, 1 << 20):  # at the same place
        base.write_bytes(bytes(size))
        expected = (await disks.overlay(base, tmp_path / f"{size}.qcow2")).path.read_bytes()
        for number in range(3):
            made = await overlays.make(base, tmp_path / f"{size}-{number}.qcow2")
            assert made.base == base
            assert made.path.read_bytes() == expected


async def test_an_overlay_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    base, overlays = tmp_path / "base.ext4", disks.Overlays()
    base.write_bytes(bytes(4096))
    await overlays.make(base, tmp_path / "first.qcow2")
    with pytest.raises(HostError):
        await overlays.make(base, tmp_path / "no" / "folder.qcow2")


async def test_an_overlay_on_an_overlay_is_one_of_that_name_whole_or_not_there(
    tmp_path: Path,
) -> None:
    for number, size in ((1, 4096), (1, 4096), (2, 1 << 20)):
        target = tmp_path / f"{uuid4()}.qcow2"
        owner = os.getuid(), os.getgid()
        await disks.overlay_on_overlay(f"disk-{number}.qcow2", target, size, owner, durable=True)
        assert f"disk-{number}.qcow2".encode() in target.read_bytes()
        assert disk_layers.virtual_bytes(target) == size
        assert {path.suffix for path in tmp_path.iterdir()} == {".qcow2"}
    with pytest.raises(HostError):
        await disks.overlay_on_overlay("disk-1.qcow2", tmp_path / "no" / "folder", 4096)


def test_an_overlay_of_an_older_version_lies_on_the_disk_beside_the_root() -> None:
    assert kept_disk(spec(ROOT, OVERLAY)).base == IMAGE / "disk.ext4"
    copied = Disk(RUN / "disk.ext4")
    assert kept_disk(spec(ROOT, copied)) == copied


def test_what_a_vm_needs_outlasts_another_root() -> None:
    """A later life of it has the root of another image folder, and the same disk."""
    newer = Disk(Path("/srv/fc/runtime-images/def/rootfs.ext4"), read_only=True)
    again = spec(newer, kept_disk(spec(ROOT, OVERLAY)))
    assert IMAGE / "disk.ext4" in again.files
    assert kept_disk(again).base == IMAGE / "disk.ext4"

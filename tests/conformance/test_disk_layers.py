"""A disk that was frozen often, and is booted once more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from warmboot.host.vm import disk_layers
from warmboot.model.vm import Disk
from warmboot.system import disks
from warmboot.system.programs import run_program

pytestmark = pytest.mark.qemu

BLOCK_BYTES = 64 << 10


async def write(disk: Path, number: int) -> None:
    """Fill a block of it with its number."""
    command = f"write -P {number} {number * BLOCK_BYTES} {BLOCK_BYTES}"
    await run_program("qemu-io", "-f", "qcow2", "-c", command, disk, timeout_s=60)


async def blocks(disk: Path) -> list[int]:
    plain = disk.with_suffix(".img")
    await run_program("qemu-img", "convert", "-O", "raw", disk, plain, timeout_s=60)
    return list(plain.read_bytes()[::BLOCK_BYTES])


async def layered(folder: Path, count: int) -> Disk:
    """What is written to lies on so many layers, with a block in each."""
    base = folder / "base.raw"
    base.write_bytes(bytes([0xBB]) * BLOCK_BYTES * (count + 2))
    disk = await disks.overlay(base, folder / "disk.qcow2")
    for number in range(1, count + 1):
        await write(disk.path, number)
        await disk_layers.add_layer(disk)
        disk_layers.settle(disk)
    return disk


async def test_many_layers_are_merged_and_others_keep_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_layers, "MERGED_FROM", 4)
    disk = await layered(tmp_path, 4)
    frozen = tmp_path / "frozen"
    frozen.mkdir()
    top = disk_layers.link_layers(tmp_path, frozen, os.getgid())
    await write(disk.path, 5)
    await disk_layers.merge(disk)
    assert disk_layers.layers(tmp_path) == []
    assert await blocks(disk.path) == [0xBB, 1, 2, 3, 4, 5]
    assert await blocks(top) == [0xBB, 1, 2, 3, 4, 0xBB]
    await disk_layers.merge(disk)
    # The next freeze begins anew.
    await disk_layers.add_layer(disk)
    assert [layer.name for layer in disk_layers.layers(tmp_path)] == ["disk-1.qcow2"]


async def test_what_cannot_be_merged_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_layers, "MERGED_FROM", 2)
    disk = await layered(tmp_path, 2)
    await disk_layers.merge(disk, ("false",))
    assert len(disk_layers.layers(tmp_path)) == 2
    assert await blocks(disk.path) == [0xBB, 1, 2, 0xBB]


async def test_a_link_in_a_layers_place_leads_nowhere(tmp_path: Path) -> None:
    await layered(tmp_path, 1)
    (layer,) = disk_layers.layers(tmp_path)
    secret, frozen = tmp_path / "secret", tmp_path / "frozen"
    secret.touch(mode=0o600)
    frozen.mkdir()
    layer.unlink()
    layer.symlink_to(secret)
    with pytest.raises(OSError, match="Too many levels"):
        disk_layers.link_layers(tmp_path, frozen, os.getgid())
    assert secret.stat().st_mode & 0o777 == 0o600


async def test_a_link_where_an_overlay_is_made_leads_nowhere(tmp_path: Path) -> None:
    disk = await layered(tmp_path, 1)
    secret = tmp_path / "secret"
    secret.write_text("kept")
    for name in ("disk.qcow2.new", "disk.qcow2.new.making"):
        (tmp_path / name).symlink_to(secret)
    overlay = await disk_layers.add_layer(disk)
    assert overlay.path.stat().st_uid == disk.path.stat().st_uid
    assert not overlay.path.is_symlink()
    assert not (tmp_path / "disk.qcow2.new.making").is_symlink()
    disk_layers.remove_layer(disk)
    assert secret.read_text() == "kept"
    # In the place of the disk itself it is refused.
    disk.path.unlink()
    disk.path.symlink_to(secret)
    with pytest.raises(OSError, match="Too many levels"):
        await disk_layers.add_layer(disk)
    assert secret.read_text() == "kept"
    assert secret.stat().st_nlink == 1


async def test_few_layers_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_layers, "MERGED_FROM", 3)
    disk = await layered(tmp_path, 2)
    await disk_layers.merge(disk)
    assert len(disk_layers.layers(tmp_path)) == 2

"""Damage to a snapshot is found by a warm boot: it goes on cold, and the snapshot is rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.managers import Manager
from tests.support.rebuilds import successor_of

from warmboot.model.container import ContainerState
from warmboot.model.runtime_snapshot import (
    DISK_FILE,
    MEMORY_FILE,
    METADATA_FILE,
    ROOTFS_FILE,
    STATE_FILE,
    RuntimeSnapshot,
    SnapshotManifest,
)
from warmboot.model.tenants.boot import BootMethod, FallbackReason


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _tamper(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (MEMORY_FILE, _truncate),
        (STATE_FILE, _remove),
        (ROOTFS_FILE, _tamper),
        (DISK_FILE, _tamper),
    ],
)
async def test_a_damaged_snapshot_is_set_aside_and_rebuilt(
    snapshot: RuntimeSnapshot, manager: Manager, name: str, damage: Callable[[Path], None]
) -> None:
    path = Path(snapshot.snapshot_path) / name
    if name == ROOTFS_FILE:  # a hard link: the image itself must stay whole
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    damage(path)
    container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert container.boot_method is BootMethod.COLD
    assert container.fallback_reason is FallbackReason.SNAPSHOT_DAMAGED
    assert name in container.fallback_details
    successor = await successor_of(manager, snapshot)
    again = await manager.run("again")
    assert again.boot_method is BootMethod.WARM
    assert again.runtime_snapshot_id == successor.id


async def test_a_damaged_metadata_file_is_found(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    (Path(snapshot.snapshot_path) / METADATA_FILE).write_text("{")
    container = await manager.run()
    assert container.fallback_reason is FallbackReason.SNAPSHOT_DAMAGED
    assert METADATA_FILE in container.fallback_details


async def test_a_folder_removed_by_hand_is_found(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    Path(snapshot.snapshot_path).rename(manager.lab.root / "elsewhere")
    container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert container.fallback_reason is FallbackReason.SNAPSHOT_DAMAGED
    await successor_of(manager, snapshot)


async def test_a_folder_that_became_a_file_is_found(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    folder = Path(snapshot.snapshot_path)
    folder.rename(manager.lab.root / "elsewhere")
    folder.write_text("not a folder")
    container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert container.fallback_reason is FallbackReason.SNAPSHOT_DAMAGED
    await successor_of(manager, snapshot)


async def test_a_disk_that_goes_after_the_check_is_found(
    snapshot: RuntimeSnapshot, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = manager.host.snapshots.check

    async def removed_after_it(path: Path) -> SnapshotManifest:
        manifest = await check(path)
        (path / DISK_FILE).unlink()
        return manifest

    with monkeypatch.context() as patch:
        patch.setattr(manager.host.snapshots, "check", removed_after_it)
        container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert container.fallback_reason is FallbackReason.SNAPSHOT_DAMAGED
    assert DISK_FILE in container.fallback_details
    await successor_of(manager, snapshot)

"""Boots from compressed snapshots, where memory has to be unpacked for them."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, Manager
from tests.support.snapshots import flip

from warmboot.host.snapshots.snapshot_files import memory_metadata
from warmboot.model.container import ContainerState
from warmboot.model.errors import DiskFull
from warmboot.model.garbage import Why
from warmboot.model.runtime_snapshot import FRAMES_FILE, RuntimeSnapshot, SnapshotState
from warmboot.model.tenants.boot import BootMethod, FallbackReason


async def compressed(manager: Manager) -> RuntimeSnapshot:
    snapshot = await manager.snapshot()
    manifest = await manager.host.snapshots.compress(snapshot.snapshot_path)
    sizes = memory_metadata(manifest, snapshot.snapshot_path)
    await manager.store.snapshots.update_metadata(snapshot.id, sizes)
    return snapshot


async def test_it_boots_warm_and_boots_share_what_was_unpacked(manager: Manager) -> None:
    snapshot = await compressed(manager)
    containers = await asyncio.gather(*(manager.run(name=f"web-{n}") for n in range(3)))
    assert {container.boot_method for container in containers} == {BootMethod.WARM}
    assert {container.runtime_snapshot_id for container in containers} == {snapshot.id}
    (entry,) = await manager.host.storage.cache.entries()
    assert entry.snapshot_id == snapshot.id


async def test_memory_that_a_vm_maps_is_neither_evicted_nor_counted_as_freed(place: Lab) -> None:
    """Nothing would be given back, and the next boot would unpack a second one."""
    async with place.manager() as manager:
        snapshot = await compressed(manager)
        await manager.run()
        path = await kept(manager)
    nearly_full = {"disk_floor_mib": 1 << 30}
    async with place.manager(cache_budget_mib=0, **nearly_full) as manager:
        # The VM is an earlier manager's.
        assert (await manager.services.garbage.collect()).removed == ()
        with pytest.raises(DiskFull):
            await manager.host.storage.ensure_room()
        assert await kept(manager) == path
        await manager.containers.delete("web", force=True)
        done = await manager.services.garbage.collect()
        assert [(one.path, one.why) for one in done.removed] == [(path, Why.OVER_BUDGET)]
        await manager.snapshots.delete(snapshot.id)
        await check(manager.running)


async def kept(manager: Manager) -> Path:
    """The one file that is in the cache, and in use."""
    (entry,) = await manager.host.storage.cache.entries()
    assert entry.in_use
    return entry.path


async def test_without_room_to_unpack_it_boots_cold_and_blames_no_snapshot(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = await compressed(manager)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        container = await manager.run()
    assert container.boot_method is BootMethod.COLD
    assert container.fallback_reason is FallbackReason.RESTORE_FAILED
    assert "disk is full" in container.fallback_details
    now = await manager.snapshots.get(snapshot.id)
    assert (now.state, now.failure_count) == (SnapshotState.READY, 0)
    assert await manager.host.storage.cache.entries() == []
    assert (await manager.run(name="again")).boot_method is BootMethod.WARM


async def test_a_cache_that_cannot_be_made_boots_cold_and_blames_no_snapshot(
    manager: Manager,
) -> None:
    snapshot = await compressed(manager)
    cache = manager.host.storage.cache.root.parent
    cache.write_text("in the way")
    container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert container.fallback_reason is FallbackReason.RESTORE_FAILED
    assert str(cache) in container.fallback_details
    now = await manager.snapshots.get(snapshot.id)
    assert (now.state, now.failure_count) == (SnapshotState.READY, 0)
    cache.unlink()
    assert (await manager.run(name="again")).boot_method is BootMethod.WARM


async def test_a_flipped_bit_in_the_frames_boots_cold_and_marks_the_snapshot(
    manager: Manager,
) -> None:
    snapshot = await compressed(manager)
    flip(snapshot.snapshot_path / FRAMES_FILE, 30)
    container = await manager.run()
    assert container.boot_method is BootMethod.COLD
    assert container.fallback_reason is FallbackReason.SNAPSHOT_DAMAGED
    assert FRAMES_FILE in container.fallback_details
    assert await manager.host.storage.cache.entries() == []

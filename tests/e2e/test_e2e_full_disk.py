"""A disk that is full, fills up, or has less room than its floor: a small one of its own.

Containers and snapshots are refused and leave nothing; what is ready goes on serving.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.e2e.conftest import Archive
from tests.e2e.copies import add_shared, shared_snapshot
from tests.e2e.small_disks import filled, small_site
from tests.support.vms import TINY, VM_TIMEOUT_S, Site, eventually

from warmboot.model.errors import DiskFull
from warmboot.model.runtime_snapshot import FRAMES_FILE, MEMORY_FILE, RuntimeSnapshot
from warmboot.system.disks import allocated_bytes, free_bytes

SPARE_MIB = 400


@pytest.fixture(scope="module")
async def small(site: Site, image_folder: Path) -> AsyncIterator[Site]:
    """A site whose storage is a small file system of its own, a runtime image in it.

    There is room for a copy of the shared site's snapshot, and not much more.
    """
    memory = (await shared_snapshot(site)).snapshot_path / MEMORY_FILE
    parts = [*image_folder.iterdir(), memory]
    size_mib = sum(map(allocated_bytes, parts)) // (1 << 20) + SPARE_MIB
    async with small_site(
        "e2e-full",
        image_folder,
        size_mib,
        prefix="wbf",
        subnet="198.19.216.0/22",
        MANAGER_DISK_FLOOR_MIB="16",
        MANAGER_COMPRESS_AFTER_H="0",
    ) as made:
        yield made


async def _restarted(small: Site, **settings: str) -> None:
    await small.stop()
    await small.start(settings)


def _files(storage: Path) -> set[Path]:
    """All but the network's, which are of slots kept ready."""
    found = (path for path in storage.rglob("*") if path.is_file())
    return {path for path in found if path.parent.name != "network"}


# -- with nothing in it but a runtime image --------------------------------------------------------


async def test_too_little_room_is_told_before_anything_begins(
    small: Site, archive: Archive
) -> None:
    async with small.client() as client:
        uploaded = await client.archives.upload(archive.path)
    await _restarted(small, MANAGER_DISK_FLOOR_MIB="4096")
    try:
        async with small.client() as client:
            with pytest.raises(DiskFull, match="MiB are free below"):
                await client.archives.upload(archive.path)
        full = contextlib.nullcontext()
        await _refuses_all(small, archive, uploaded, "MiB are free below", full)
    finally:
        await _restarted(small)


async def test_a_disk_that_is_full_in_the_middle_leaves_nothing(
    small: Site, archive: Archive
) -> None:
    async with small.client() as client:
        uploaded = await client.archives.upload(archive.path)
    await _restarted(small, MANAGER_DISK_FLOOR_MIB="0")
    try:
        await _refuses_all(small, archive, uploaded, "the disk is full", filled(small.storage))
    finally:
        await _restarted(small)


async def _refuses_all(
    small: Site,
    archive: Archive,
    uploaded: str,
    told: str,
    while_full: contextlib.AbstractContextManager[None],
) -> None:
    """Container and snapshot fail and say why; nothing is left of them."""
    async with small.client() as client:
        before = _files(small.storage)
        with while_full:
            container_id = await client.containers.create(
                image=archive.name, archive=uploaded, boot="cold"
            )
            found = await client.containers.wait(container_id, "running", VM_TIMEOUT_S)
            assert (found.state, found.error and found.error["code"]) == ("failed", "disk-full")
            assert found.error is not None
            assert told in found.error["brief"]
            assert found.error["resolution"].startswith("free some space")
            ran = await small.cli("snapshot", "create", "default", code=1)
            assert told in ran.err
            assert "next: free some space" in ran.err
            assert small.vmms() == []
            await client.containers.delete(container_id)
            for snapshot in await client.snapshots.list():
                await client.snapshots.delete(snapshot.id)
        assert _files(small.storage) == before


# -- with a snapshot that is ready -----------------------------------------------------------------


@pytest.fixture
async def stocked(site: Site, small: Site) -> AsyncIterator[RuntimeSnapshot]:
    """The shared site's snapshot, as one of this site."""
    shared = await add_shared(small, site)
    yield shared
    await small.remove_containers()
    async with small.client() as client:
        await client.snapshots.delete(str(shared.id))
    await small.cli("gc")  # what was cached of it, too


async def _serves(small: Site, snapshot_id: UUID) -> None:
    """It is ready, and the next container boots from it."""
    found = await small.run("served", TINY, "sleep", "1000")
    assert (found["boot_method"], found["runtime_snapshot_id"]) == ("warm", str(snapshot_id))
    await small.remove_containers()


async def test_a_disk_that_fills_up_during_a_compression_leaves_the_old_form(
    small: Site, stocked: RuntimeSnapshot
) -> None:
    before = _files(small.storage)
    half_done = stocked.snapshot_path / f"{FRAMES_FILE}.new"

    async def begun() -> bool:
        return half_done.exists()

    compressing = await small.begin("snapshot", "compress", str(stocked.id))
    await eventually(begun, "it is being compressed")
    with filled(small.storage):
        _, err = await compressing.communicate()
        assert compressing.returncode == 1
        assert "the disk is full" in err.decode()
        assert "next: free some space" in err.decode()
        assert not half_done.exists()
    assert _files(small.storage) == before
    async with small.client() as client:
        known = await client.snapshots.get(str(stocked.id))
        assert (known.state, known.metadata["compressed"]) == ("ready", False)
    await _serves(small, stocked.id)
    failed = {"action": "compress", "outcome": "failed"}
    assert await small.counted("warmboot_snapshot_compressions_total", **failed) == 1
    cause = {"kind": "runtime-snapshot.compress-failed", "cause": "disk-full"}
    assert await small.counted("warmboot_failures_total", **cause) == 1


async def test_a_disk_that_fills_up_during_a_rebuild_leaves_the_old_one_serving(
    small: Site, stocked: RuntimeSnapshot
) -> None:
    before = _files(small.storage)
    async with small.client() as client, client.events.follow() as events:
        new_id = await client.snapshots.rebuild(str(stocked.id))

        async def told(kind: str, **data: Any) -> dict[str, Any]:
            async for event in events:
                fits = data.items() <= event.data.items()
                if (event.subject_id, event.kind) == (new_id, f"runtime-snapshot.{kind}") and fits:
                    return dict(event.data)
            raise AssertionError("the events have ended")

        await asyncio.wait_for(told("stage", stage="boot"), VM_TIMEOUT_S)
        with filled(small.storage):
            failed = await asyncio.wait_for(told("failed"), 2 * VM_TIMEOUT_S)
        assert failed["replaces"] == str(stocked.id)
        assert failed["error"]["code"] == "disk-full"
        assert failed["error"]["resolution"].startswith("free some space")
        (left,) = await client.snapshots.list()
        assert (left.id, left.state) == (str(stocked.id), "ready")
    assert _files(small.storage) == before
    assert small.vmms() == []
    await _serves(small, stocked.id)
    rebuild = {"kind": "rebuild", "outcome": "failed"}
    assert await small.counted("warmboot_snapshot_builds_total", **rebuild) == 1
    cause = {"kind": "runtime-snapshot.failed", "cause": "disk-full"}
    assert await small.counted("warmboot_failures_total", **cause) == 1


async def test_below_the_floor_caches_shrink_before_a_build_is_refused(
    small: Site, stocked: RuntimeSnapshot
) -> None:
    await small.cli("snapshot", "compress", str(stocked.id))
    await _serves(small, stocked.id)
    (cached,) = (small.storage / "cache" / "memory").glob("*.mem")
    shrunk = free_bytes(small.storage) + allocated_bytes(cached) // 2
    await _restarted(small, MANAGER_DISK_FLOOR_MIB=str(shrunk >> 20))
    document = json.loads((await small.cli("gc", "--dry-run", "--json")).out)
    why = {one["name"]: one["why"] for one in document["removed"]}
    assert why == {cached.name: "low-disk"}
    assert cached.exists()
    begun = (await small.cli("snapshot", "create", "-d", "default")).out.strip()
    assert not cached.exists()
    assert small.log_lines("a cache shrinks", str(stocked.id))
    await small.cli("snapshot", "rm", begun)
    await _restarted(small)
    await _serves(small, stocked.id)

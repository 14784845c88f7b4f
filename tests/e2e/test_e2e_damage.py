"""Files of a snapshot that are not what they were; a disk that is full."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.e2e.conftest import Archive
from tests.support.vms import PROBE, Site, eventually, state_root

from warmboot.host.snapshot_files import SnapshotFiles
from warmboot.host.vm_files import VMM_GID
from warmboot.images.hashing import copy_sparse
from warmboot.model.runtime_snapshot import (
    DEFAULT_WEIGHT,
    DISK_FILE,
    MEMORY_FILE,
    METADATA_FILE,
    ROOTFS_FILE,
    STATE_FILE,
    SnapshotState,
)


@pytest.fixture(scope="module")
async def spare(site: Site) -> AsyncIterator[UUID]:
    """A second version, to be damaged; meanwhile the shared one only stands by."""
    async with site.store() as store:
        (shared,) = await store.snapshots.list()
        new_id = uuid4()
        path = shared.snapshot_path.with_name(str(new_id))
        await asyncio.to_thread(_copy_folder, shared.snapshot_path, path)
        await SnapshotFiles(site.storage / "runtime-snapshots", VMM_GID).check(path)
        now = datetime.now(UTC)
        copy = replace(shared, id=new_id, snapshot_path=path, created_at=now)
        await store.snapshots.add(replace(copy, state=SnapshotState.CREATING, version=0))
        await store.snapshots.set_state(new_id, SnapshotState.READY)
        await store.snapshots.set_traits(shared.id, weight=0)
        yield new_id
        await store.snapshots.set_traits(shared.id, weight=DEFAULT_WEIGHT)


def _copy_folder(source: Path, target: Path) -> None:
    target.mkdir()
    for name in (MEMORY_FILE, STATE_FILE, ROOTFS_FILE, DISK_FILE):
        copy_sparse(source / name, target / name)
    document = json.loads((source / METADATA_FILE).read_text())
    document["snapshot_id"] = target.name
    (target / METADATA_FILE).write_text(json.dumps(document))
    for path in (target, *target.iterdir()):
        os.chown(path, 0, VMM_GID)
        path.chmod(0o710 if path.is_dir() else 0o440)


@contextlib.contextmanager
def _damaged(path: Path, how: str) -> Iterator[None]:
    """``path`` with its last byte missing, or one byte of it changed; as it was afterwards."""
    size = path.stat().st_size
    offset = size - 1 if how == "truncated" else size // 2
    with path.open("r+b") as file:
        file.seek(offset)
        original = file.read(1)
        if how == "truncated":
            file.truncate(size - 1)
        else:
            file.seek(offset)
            file.write(bytes([original[0] ^ 0xFF]))
    yield
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(original)


@pytest.mark.parametrize("how", ["truncated", "tampered"])
@pytest.mark.parametrize("name", [STATE_FILE, MEMORY_FILE, DISK_FILE])
async def test_a_damaged_snapshot_is_not_restored(
    site: Site, spare: UUID, archive: Archive, name: str, how: str
) -> None:
    async with site.store() as store, site.client() as client:
        folder = (await store.snapshots.get(spare)).snapshot_path
        with _damaged(folder / name, how):
            archive_id = await client.archives.upload(archive.path)
            container_id = await client.containers.create(image=archive.name, archive=archive_id)

            found = await client.containers.wait(container_id, "running", 60)
            (attempt,) = found.raw["boot_attempts"]
            assert (attempt["snapshot_id"], attempt["reason"]) == (str(spare), "snapshot_damaged")
            assert f"the snapshot {spare} is damaged: {name} " in attempt["details"]
            # The other version has served instead.
            assert (found.boot_method, found.fallback_reason) == ("warm", None)
            assert found.raw["runtime_snapshot_id"] not in (None, str(spare))
            marked = await client.snapshots.get(str(spare))
            assert (marked.state, marked.consecutive_failures) == ("unhealthy", 1)
            assert marked.error is not None
            assert f"warmboot snapshot rebuild {spare}" in marked.error["resolution"]

            async def successor() -> str | None:
                known = await client.snapshots.list()
                return next((one.id for one in known if one.replaces == str(spare)), None)

            rebuild = await eventually(successor, "a rebuild begins")
            # Enough is seen; the next test follows one to its end.
            await client.containers.delete(container_id, force=True)
            await client.snapshots.delete(rebuild)
        assert site.vmms() == []
        assert await store.operations.list() == ()
        assert site.temporary_files() == []
        await store.snapshots.record_success(spare, datetime.now(UTC))
        await store.snapshots.set_state(spare, SnapshotState.READY)


async def test_a_rebuilt_snapshot_takes_over_and_can_be_deleted_while_it_is_in_use(
    site: Site, spare: UUID, archive: Archive
) -> None:
    async with site.store() as store, site.client() as client:
        old = await store.snapshots.get(spare)
        (old.snapshot_path / STATE_FILE).unlink()
        words = ("--archive", str(archive.path), archive.name)
        await site.cli("run", "-d", "--name", "other-version", *words)
        ran = await site.inspect("other-version")
        assert ran["boot_method"] == "warm"
        assert [attempt["reason"] for attempt in ran["boot_attempts"]] == ["snapshot_damaged"]
        assert site.log_lines("WARN Runtime snapshot", str(spare), "is unhealthy")

        async def swapped() -> str | None:
            ready = [one for one in await client.snapshots.list() if one.state == "ready"]
            return next((one.id for one in ready if one.replaces == str(spare)), None)

        rebuilt = await eventually(swapped, "the rebuild is ready", 180)
        assert str(spare) not in [one.id for one in await client.snapshots.list()]

        async def collected() -> bool:
            return not old.snapshot_path.exists()

        await eventually(collected, "the old one's files are removed")

        found = await site.run("heir", PROBE, "sleep", "1000")
        assert (found["boot_method"], found["runtime_snapshot_id"]) == ("warm", rebuilt)
        folder = (await store.snapshots.get(UUID(rebuilt))).snapshot_path
        await site.cli("snapshot", "rm", rebuilt)
        assert rebuilt not in (await site.cli("snapshot", "ls", "--json")).out
        assert (folder / MEMORY_FILE).exists(), "a VM maps it"
        other = await site.run("other", PROBE, "sleep", "1000")
        assert other["runtime_snapshot_id"] != rebuilt
        assert await site.exec("heir", "echo alive") == "alive\n"
        await site.cli("rm", "-f", "heir")
        assert not folder.exists()
    assert site.temporary_files() == []


# -- a full disk -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def small(image_folder: Path) -> AsyncIterator[Site]:
    """A site whose storage is a small file system of its own, a runtime image in it."""
    allocated_kib = sum(path.stat().st_blocks for path in image_folder.iterdir()) // 2
    async with Site.at(state_root() / "e2e-full", prefix="wbf", subnet="198.19.216.0/22") as site:
        site.storage.mkdir(mode=0o755)
        options = f"size={allocated_kib + (150 << 10)}k,mode=755"
        await _do("mount", "-t", "tmpfs", "-o", options, "warmboot-e2e", str(site.storage))
        try:
            # The database elsewhere: as if another program filled the disk with the VMs.
            site.settings["MANAGER_DATABASE_URL"] = f"sqlite:///{site.folder / 'elsewhere.db'}"
            site.settings["MANAGER_DISK_FLOOR_MIB"] = "0"
            site.settings["MANAGER_AUTO_SNAPSHOT"] = "false"
            await site.start()
            await site.cli("runtime", "register", "--name", "default", str(image_folder))
            yield site
        finally:
            await site.kill()
            await _do("umount", "--lazy", str(site.storage))


async def _do(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(*words)
    assert await process.wait() == 0, words


async def test_too_little_room_is_told_before_anything_begins(
    small: Site, archive: Archive
) -> None:
    await small.stop()
    small.settings["MANAGER_DISK_FLOOR_MIB"] = "1024"
    await small.start()
    try:
        await _refuses_all(small, archive, "MiB are free below", contextlib.nullcontext())
    finally:
        await small.stop()
        small.settings["MANAGER_DISK_FLOOR_MIB"] = "0"
        await small.start()


async def test_a_disk_that_is_full_in_the_middle_leaves_nothing(
    small: Site, archive: Archive
) -> None:
    await _refuses_all(small, archive, "the disk is full", _filled(small.storage))


@contextlib.contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """Not a page is free below ``folder``."""
    filler = folder / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    yield
    filler.unlink()


async def _refuses_all(
    small: Site, archive: Archive, told: str, while_full: contextlib.AbstractContextManager[None]
) -> None:
    """Container and snapshot fail and say why; nothing is left of them."""
    async with small.client() as client:
        uploaded = await client.archives.upload(archive.path)
        before = _files(small.storage)
        with while_full:
            container_id = await client.containers.create(
                image=archive.name, archive=uploaded, boot="cold"
            )
            found = await client.containers.wait(container_id, "running", 60)
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


def _files(storage: Path) -> set[Path]:
    """All but the network's, which are of slots kept ready."""
    found = (path for path in storage.rglob("*") if path.is_file())
    return {path for path in found if path.parent.name != "network"}

"""What lies below the storage root is seen for what it is, and removed only as it was seen."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from warmboot.host.storage.disk_scan import DiskScan, own_bytes
from warmboot.model.garbage import DiskEntry, Kind
from warmboot.system.staging import staging

IMAGE, SNAPSHOT = str(uuid4()), str(uuid4())


@pytest.fixture
def scan(tmp_path: Path) -> DiskScan:
    return DiskScan(tmp_path)


def make(path: Path, content: bytes = b"x" * 5000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


async def seen(scan: DiskScan) -> dict[str, DiskEntry]:
    return {str(one.path.relative_to(scan.root)): one for one in await scan.run()}


async def test_everything_is_seen_for_what_it_is(scan: DiskScan) -> None:
    snapshots = scan.root / "runtime-snapshots" / IMAGE
    make(scan.root / "runtime-images" / "ab12" / "kernel")
    make(scan.root / "runtime-images" / ".ab12.0.partial" / "kernel")
    make(snapshots / SNAPSHOT / "snapshot.mem")
    make(snapshots / SNAPSHOT / ".seen.json.new")
    make(snapshots / f".building-{SNAPSHOT}" / "disk.ext4")
    make(snapshots / f".gone-{SNAPSHOT}" / "disk.ext4")
    (scan.root / "runtime-snapshots" / "empty").mkdir()
    make(scan.root / "vms" / "vm-1" / "disk.qcow2")
    make(scan.root / "archives" / "cd34")
    make(scan.root / "archives" / ".upload-1")
    make(scan.root / "checkpoint-archives" / "x.tar")
    found = {path: (one.kind, one.owner) for path, one in (await seen(scan)).items()}
    folder = f"runtime-snapshots/{IMAGE}"
    assert found == {
        "runtime-images/ab12": (Kind.IMAGE_FOLDER, "ab12"),
        "runtime-images/.ab12.0.partial": (Kind.TEMPORARY, ".ab12.0.partial"),
        f"{folder}/{SNAPSHOT}": (Kind.SNAPSHOT_FOLDER, SNAPSHOT),
        f"{folder}/{SNAPSHOT}/.seen.json.new": (Kind.TEMPORARY, ".seen.json.new"),
        f"{folder}/.building-{SNAPSHOT}": (Kind.HALF_BUILT, SNAPSHOT),
        f"{folder}/.gone-{SNAPSHOT}": (Kind.TEMPORARY, f".gone-{SNAPSHOT}"),
        "runtime-snapshots/empty": (Kind.EMPTY_FOLDER, "empty"),
        "vms/vm-1": (Kind.VM_FOLDER, "vm-1"),
        "archives/cd34": (Kind.ARCHIVE, "cd34"),
        "archives/.upload-1": (Kind.TEMPORARY, ".upload-1"),
        "checkpoint-archives": (Kind.TEMPORARY, "checkpoint-archives"),
    }


async def test_an_empty_storage_has_nothing(scan: DiskScan) -> None:
    assert await scan.run() == []


async def test_everything_that_is_seen_can_be_removed(scan: DiskScan) -> None:
    make(scan.root / "runtime-images" / "ab12" / "kernel")
    make(scan.root / "runtime-snapshots" / IMAGE / SNAPSHOT / "snapshot.mem")
    make(scan.root / "vms" / "vm-1" / "disk.qcow2")
    make(scan.root / "archives" / "cd34")
    make(scan.root / "archives" / ".upload-1")
    for one in await scan.run():
        assert await scan.remove(one)
        assert not one.path.exists()
        assert await scan.remove(one), "what is gone already is gone"
    (left,) = await scan.run()
    assert left.kind is Kind.EMPTY_FOLDER
    assert await scan.remove(left)
    assert await scan.run() == []


async def test_an_image_that_is_being_imported_is_not_seen(scan: DiskScan) -> None:
    async with staging(scan.root / "runtime-images" / "ab12"):
        assert await scan.run() == []


async def test_an_archive_that_is_used_meanwhile_stays(scan: DiskScan) -> None:
    path = make(scan.root / "archives" / "cd34")
    (one,) = await scan.run()
    os.utime(path, (1, 1))
    assert not await scan.remove(one)
    assert path.exists()


async def test_an_upload_that_goes_on_meanwhile_stays(scan: DiskScan) -> None:
    path = make(scan.root / "archives" / ".upload-1")
    os.utime(path, (1, 1))
    (one,) = await scan.run()
    make(path, b"more")
    assert not await scan.remove(one)
    assert path.exists()


async def test_a_folder_that_is_filled_meanwhile_stays(scan: DiskScan) -> None:
    folder = scan.root / "runtime-snapshots" / IMAGE
    folder.mkdir(parents=True)
    (one,) = await scan.run()
    make(folder / SNAPSHOT / "snapshot.mem")
    assert not await scan.remove(one)
    assert (folder / SNAPSHOT).is_dir()


async def test_a_vm_that_runs_is_not_seen_though_it_has_no_record(scan: DiskScan) -> None:
    folder = scan.root / "vms" / "vm-1"
    folder.mkdir(parents=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import time; time.sleep(60)", str(folder / "monitor.sock")),
        start_new_session=True,
    )
    try:
        assert await scan.run() == []
    finally:
        process.kill()
        await process.wait()
    assert [one.kind for one in await scan.run()] == [Kind.VM_FOLDER]


async def test_a_link_is_removed_and_not_what_it_leads_to(scan: DiskScan) -> None:
    precious = make(scan.root / "elsewhere" / "precious")
    folder = scan.root / "runtime-snapshots" / IMAGE
    folder.mkdir(parents=True)
    (folder / SNAPSHOT).symlink_to(precious.parent)
    (one,) = [one for one in await scan.run() if one.kind is Kind.SNAPSHOT_FOLDER]
    assert await scan.remove(one)
    assert precious.exists()


async def test_what_cannot_be_removed_is_told(scan: DiskScan) -> None:
    one = DiskEntry(
        Kind.EMPTY_FOLDER, make(scan.root / "a" / "b").parent, "a", 0, datetime.now(UTC)
    )
    assert not await scan.remove(one)
    assert await scan.remove(replace(one, path=scan.root / "nothing"))


def test_files_that_have_another_name_elsewhere_free_nothing(tmp_path: Path) -> None:
    file = make(tmp_path / "image" / "rootfs.ext4", bytes(1 << 20))
    own = make(tmp_path / "snapshot" / "snapshot.state", b"x" * 5000)
    before = own_bytes(tmp_path / "snapshot")
    os.link(file, tmp_path / "snapshot" / "rootfs.ext4")
    assert own_bytes(tmp_path / "snapshot") == before
    assert before >= own.stat().st_blocks * 512
    assert own_bytes(tmp_path / "nothing") == 0


def test_folders_that_are_removed_meanwhile_count_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "vm" / "disk.qcow2")
    here = own_bytes(tmp_path / "vm")
    (tmp_path / "vm" / "going").mkdir()
    real = os.scandir

    def scandir(path: Path) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        if Path(path).name == "going":
            Path(path).rmdir()
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert here <= own_bytes(tmp_path / "vm") <= here + 4096
    assert not (tmp_path / "vm" / "going").exists()

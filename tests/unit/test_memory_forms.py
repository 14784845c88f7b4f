"""A snapshot's memory changes its form: whole at every moment, and unnoticed by who uses it."""

from __future__ import annotations

import asyncio
import errno
import json
import mmap
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import pytest
from tests.support.failing_calls import Killed, failing
from tests.support.snapshots import IMAGE_ID, MEMORY, flip, here, make_image, publish

from warmboot.host.snapshots import memory_forms, memory_frames
from warmboot.host.snapshots.snapshot_files import SnapshotFiles, load_manifest, memory_metadata
from warmboot.model.errors import DiskFull, SnapshotDamaged, WarmbootError
from warmboot.model.runtime_image import FileSum
from warmboot.model.runtime_snapshot import FRAMES_FILE, MEMORY_FILE, METADATA_FILE, PackedMemory
from warmboot.system.low_priority import run_at_low_priority

PLAIN = {".seen.json", "disk.ext4", METADATA_FILE, "rootfs.ext4", MEMORY_FILE, "snapshot.state"}
COMPRESSED = PLAIN - {MEMORY_FILE} | {FRAMES_FILE}


@pytest.fixture
def files(tmp_path: Path) -> SnapshotFiles:
    return SnapshotFiles(tmp_path / "snapshots", os.getgid(), here)


async def test_a_helper_process_does_the_work(tmp_path: Path) -> None:
    files = SnapshotFiles(tmp_path / "snapshots", os.getgid())
    path = await publish(files, make_image(tmp_path / "image"))
    before = load_manifest(path)
    await files.compress(path)
    assert await files.unpack(path) == before
    flip(path / MEMORY_FILE)
    with pytest.raises(SnapshotDamaged, match="is damaged") as found:
        await files.compress(path)
    assert found.value.resolution
    assert names(path) == PLAIN


async def test_a_helper_process_is_killed_with_its_call(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await run_at_low_priority(time.sleep, 3600)
    ours = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    helpers = [
        p for p in ours if b"warmboot.system.low_priority" in read(Path(f"/proc/{p}/cmdline"))
    ]
    assert helpers == []


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


@pytest.fixture
async def path(tmp_path: Path, files: SnapshotFiles) -> Path:
    return await publish(files, make_image(tmp_path / "image"))


def names(path: Path) -> set[str]:
    return {one.name for one in path.iterdir()}


async def test_compressed_and_unpacked_it_is_the_same_snapshot(
    files: SnapshotFiles, path: Path
) -> None:
    before = load_manifest(path)
    compressed = await files.compress(path)
    assert compressed.compressed
    assert names(path) == COMPRESSED
    assert (path / FRAMES_FILE).stat().st_mode & 0o777 == 0o440
    assert await files.verify(path) == await files.check(path) == load_manifest(path) == compressed
    assert compressed.packed is not None
    assert compressed.packed.plain == before.files[MEMORY_FILE]
    assert await files.unpack(path) == before
    assert names(path) == PLAIN
    assert (path / MEMORY_FILE).read_bytes() == MEMORY
    assert await files.verify(path) == before


async def test_changing_to_the_form_that_it_has_changes_nothing(
    files: SnapshotFiles, path: Path
) -> None:
    for change, name in ((files.unpack, MEMORY_FILE), (files.compress, FRAMES_FILE)):
        manifest = await change(path)
        inode = (path / name).stat().st_ino
        assert await change(path) == manifest
        assert (path / name).stat().st_ino == inode


async def test_metadata_says_the_form_and_the_sizes(files: SnapshotFiles, path: Path) -> None:
    assert json.loads((path / METADATA_FILE).read_text())["compressed"] is False
    plain = memory_metadata(load_manifest(path), path)
    assert (plain["compressed"], plain["compressed_size_bytes"]) == (False, None)
    assert plain["mem_size_bytes"] == len(MEMORY)
    manifest = await files.compress(path)
    document = json.loads((path / METADATA_FILE).read_text())
    assert document["compressed"] is True
    assert document["packed"]["plain"]["size_bytes"] == len(MEMORY)
    packed = memory_metadata(manifest, path)
    stored = (path / FRAMES_FILE).stat()
    assert packed == {
        "size_bytes": packed["size_bytes"],
        "mem_size_bytes": len(MEMORY),
        "mem_stored_bytes": stored.st_blocks * 512,
        "mem_nonzero_bytes": len(MEMORY) - MEMORY.count(0),
        "compressed": True,
        "compressed_size_bytes": stored.st_size,
    }
    assert packed["size_bytes"] == sum(
        (path / name).stat().st_blocks * 512 for name in manifest.files
    )


async def test_who_maps_the_file_keeps_it(files: SnapshotFiles, path: Path) -> None:
    with (path / MEMORY_FILE).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    await files.compress(path)
    assert mapped[:] == MEMORY
    with (path / FRAMES_FILE).open("rb") as frames:
        await files.unpack(path)
        assert frames.read(4) == b"\x28\xb5\x2f\xfd", "a zstd frame still, by its magic number"
    mapped.close()


async def test_the_swap_waits_for_who_is_about_to_open_the_file(
    files: SnapshotFiles, path: Path
) -> None:
    async with files.reading(path) as manifest:
        compressing = asyncio.create_task(files.compress(path))
        await asyncio.wait({compressing}, timeout=0.5)
        assert not compressing.done()
        assert (path / manifest.memory_file).exists()
    await asyncio.wait_for(compressing, 60)
    async with files.reading(path) as manifest:
        assert (path / manifest.memory_file).exists()


async def test_checks_at_any_time_find_a_whole_snapshot(files: SnapshotFiles, path: Path) -> None:
    async def change() -> None:
        for _ in range(6):
            await files.compress(path)
            await files.unpack(path)

    changing = asyncio.create_task(change())
    looks = 0
    while not changing.done():
        await asyncio.gather(files.check(path), files.verify(path))
        looks += 1
    await changing
    assert looks > 3


async def test_two_changes_at_once_are_one_after_the_other(
    files: SnapshotFiles, path: Path
) -> None:
    await asyncio.gather(*(files.compress(path) for _ in range(3)), files.unpack(path))
    await files.verify(path)
    assert names(path) in (PLAIN, COMPRESSED)


# -- damage ----------------------------------------------------------------------------------------


async def test_damaged_memory_is_not_compressed_away(files: SnapshotFiles, path: Path) -> None:
    flip(path / MEMORY_FILE)
    with pytest.raises(SnapshotDamaged):
        await files.compress(path)
    assert names(path) == PLAIN


@pytest.mark.parametrize("thorough", [False, True], ids=["check", "verify"])
@pytest.mark.parametrize("at", [10, 5000, -10, -2000], ids=str)
async def test_a_flipped_bit_in_the_frames_is_found(
    files: SnapshotFiles, path: Path, at: int, thorough: bool
) -> None:
    await files.compress(path)
    await files.check(path)
    flip(path / FRAMES_FILE, at % (path / FRAMES_FILE).stat().st_size)
    with pytest.raises(SnapshotDamaged) as found:
        await (files.verify if thorough else files.check)(path)
    assert FRAMES_FILE in found.value.details
    with pytest.raises(SnapshotDamaged):
        await files.unpack(path)
    assert names(path) == COMPRESSED


async def test_missing_frames_are_damage(files: SnapshotFiles, path: Path) -> None:
    await files.compress(path)
    (path / FRAMES_FILE).unlink()
    for use in (files.check, files.verify, files.unpack):
        with pytest.raises(SnapshotDamaged):
            await use(path)


async def test_a_folder_that_is_not_there_is_damage(files: SnapshotFiles, path: Path) -> None:
    await files.discard(IMAGE_ID, UUID(path.name))
    for use in (files.compress, files.unpack, files.tidy):
        with pytest.raises(SnapshotDamaged):
            await use(path)


async def test_a_folder_that_is_removed_meanwhile_is_damage(
    files: SnapshotFiles, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = memory_frames.pack

    def pack(source: Path, target: Path, expected: FileSum, stop: threading.Event) -> PackedMemory:
        result = real(source, target, expected, stop)
        path.rename(path.with_name("gone"))
        return result

    monkeypatch.setattr(memory_frames, "pack", pack)
    with pytest.raises(SnapshotDamaged):
        await files.compress(path)
    assert not path.exists()


# -- crashes ---------------------------------------------------------------------------------------


SYSTEM_CALLS: list[tuple[object, str]] = [
    *((Path, name) for name in ("write_text", "rename", "chmod", "unlink")),
    *((os, name) for name in ("open", "pwrite", "fsync", "chown", "ftruncate")),
    (memory_forms, "sum_file"),
]


def _change(files: SnapshotFiles, path: Path) -> Callable[[Path], Awaitable[object]]:
    return files.unpack if load_manifest(path).compressed else files.compress


@pytest.mark.parametrize("start", ["plain", "compressed"])
async def test_a_crash_at_any_call_leaves_one_whole_form(
    tmp_path: Path, files: SnapshotFiles, start: str
) -> None:
    image = make_image(tmp_path / "image")
    number, finished = 0, False
    while not finished:
        number += 1
        path = await publish(files, image)
        if start == "compressed":
            await files.compress(path)
        change = _change(files, path)
        with failing(SYSTEM_CALLS, number, Killed(), for_good=True) as calls:
            try:
                await change(path)
                finished = len(calls) < number
            except Killed:
                pass
        another = SnapshotFiles(files.root, files.gid, here)  # the next manager's
        await another.check(path)
        await another.verify(path)
        await another.tidy(path)
        assert names(path) - {".seen.json.new"} in (PLAIN, COMPRESSED)
        assert await another.tidy(path) == []
        await another.verify(path)
        assert (await another.compress(path)).compressed
        await another.unpack(path)
        assert (path / MEMORY_FILE).read_bytes() == MEMORY
        await files.discard(IMAGE_ID, UUID(path.name))
    assert number > 12, "many calls were made to fail"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("start", ["plain", "compressed"])
async def test_an_error_at_any_call_loses_nothing(
    tmp_path: Path, files: SnapshotFiles, start: str, code: int
) -> None:
    image = make_image(tmp_path / "image")
    number, finished, full = 0, False, 0
    while not finished:
        number += 1
        path = await publish(files, image)
        if start == "compressed":
            await files.compress(path)
        change = _change(files, path)
        with failing(SYSTEM_CALLS, number, OSError(code, os.strerror(code))) as calls:
            try:
                await change(path)
                finished = len(calls) < number
            except WarmbootError as error:
                full += isinstance(error, DiskFull)
        await files.verify(path)
        await files.tidy(path)
        assert names(path) in (PLAIN, COMPRESSED)
        await files.discard(IMAGE_ID, UUID(path.name))
    assert number > 12
    assert bool(full) == (code == errno.ENOSPC)


async def test_a_change_that_is_cancelled_leaves_the_old_form(
    files: SnapshotFiles, path: Path
) -> None:
    for delay_s in (0.0, 0.001, 0.004, 0.008, 0.016, 0.03):
        compressing = asyncio.create_task(files.compress(path))
        await asyncio.sleep(delay_s)
        compressing.cancel()
        await asyncio.gather(compressing, return_exceptions=True)
        await files.verify(path)
        assert names(path) in (PLAIN, COMPRESSED)
        await files.unpack(path)

"""Unpacked memory that boots share: made once, verified, evicted only when nobody needs it."""

from __future__ import annotations

import asyncio
import errno
import json
import mmap
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.differences import write_difference
from tests.support.snapshots import MEMORY, flip, here, make_image, publish

from warmboot.host.snapshots import memory_cache, memory_frames
from warmboot.host.snapshots.memory_cache import CacheEntry, MemoryCache, over_budget
from warmboot.host.snapshots.memory_differences import StoredFile
from warmboot.host.snapshots.snapshot_files import SnapshotFiles, load_manifest
from warmboot.hypervisors.memory.own_pages import PAGE
from warmboot.model.errors import DiskFull, SnapshotDamaged
from warmboot.model.runtime_snapshot import FRAMES_FILE
from warmboot.model.vm import VmHandle
from warmboot.system.hashing import sum_file


@pytest.fixture
def files(tmp_path: Path) -> SnapshotFiles:
    return SnapshotFiles(tmp_path / "snapshots", os.getgid(), here)


@pytest.fixture
def vms() -> list[VmHandle]:
    """Those that may map a file of the cache."""
    return []


@pytest.fixture
def cache(tmp_path: Path, vms: list[VmHandle]) -> MemoryCache:
    return MemoryCache(tmp_path / "cache" / "memory", os.getgid(), vms=lambda: vms)


@pytest.fixture
def unpackings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was unpacked so far."""
    real = memory_frames.unpack
    seen: list[Path] = []

    def unpack(source: Path, target: Path, stop: threading.Event, *, sync: bool) -> None:
        seen.append(source)
        real(source, target, stop, sync=sync)

    monkeypatch.setattr(memory_frames, "unpack", unpack)
    return seen


async def compressed(tmp_path: Path, files: SnapshotFiles, memory: bytes = MEMORY) -> Path:
    name = f"image-{uuid4()}"
    path = await publish(files, make_image(tmp_path / name), memory)
    await files.compress(path)
    return path


async def use(cache: MemoryCache, snapshot: Path) -> Path:
    async with cache.unpacked(snapshot, load_manifest(snapshot)) as path:
        assert path.read_bytes() == MEMORY
        return path


def left(cache: MemoryCache) -> list[str]:
    return sorted(path.name for path in cache.root.glob("*"))


async def test_the_first_use_unpacks_and_the_next_ones_find_it(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache, unpackings: list[Path]
) -> None:
    snapshot = await compressed(tmp_path, files)
    first = await use(cache, snapshot)
    assert first == await use(cache, snapshot)
    assert first.name.startswith(snapshot.name)
    assert first.stat().st_mode & 0o777 == 0o440
    assert await use(MemoryCache(cache.root, cache.gid), snapshot) == first
    assert len(unpackings) == 1


async def test_however_many_ask_at_once_it_is_unpacked_once(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache, unpackings: list[Path]
) -> None:
    snapshot = await compressed(tmp_path, files)
    paths = await asyncio.gather(*(use(cache, snapshot) for _ in range(20)))
    assert len(set(paths)) == 1
    assert len(unpackings) == 1


async def test_a_difference_is_laid_over_its_base_once_for_all_who_start_from_it(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache, unpackings: list[Path]
) -> None:
    base = await compressed(tmp_path, files)
    changed = MEMORY[:PAGE] + os.urandom(PAGE) + MEMORY[2 * PAGE :]
    difference = write_difference(tmp_path / "snapshot.diff", changed, [(PAGE, 2 * PAGE)])
    content, snapshot_id = sum_file(difference), uuid4()
    frames = tmp_path / "snapshot.diff.zst"
    memory_frames.pack(difference, frames, content, threading.Event())

    async def lay(stored: StoredFile) -> Path:
        below = StoredFile(base / FRAMES_FILE, compressed=True)
        async with cache.laid(snapshot_id, stored, content, below) as memory:
            assert memory.read_bytes() == changed
            assert [entry.in_use for entry in await cache.entries()] == [True]
            return memory

    plain = StoredFile(difference, expected=content)
    paths = set(await asyncio.gather(*(lay(plain) for _ in range(8))))
    assert len(paths) == len(unpackings) == 1
    # In whatever form it is stored by then.
    assert {await lay(StoredFile(frames, True, sum_file(frames)))} == paths
    assert [entry.snapshot_id for entry in await cache.evict(0)] == [snapshot_id]
    flip(difference, difference.stat().st_size - 1)
    with pytest.raises(SnapshotDamaged):
        await lay(plain)
    assert left(cache) == []


async def test_another_content_is_another_file(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache
) -> None:
    one, other = [await compressed(tmp_path, files) for _ in range(2)]
    assert await use(cache, one) != await use(cache, other)


async def test_one_who_gives_up_does_not_take_it_from_the_others(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache
) -> None:
    snapshot = await compressed(tmp_path, files)
    impatient, patient = (asyncio.create_task(use(cache, snapshot)) for _ in range(2))
    await asyncio.sleep(0.001)  # it is being unpacked
    impatient.cancel()
    assert (await asyncio.wait_for(patient, 60)).exists()
    await asyncio.gather(impatient, return_exceptions=True)
    assert len(left(cache)) == 2
    assert not (await cache.entries())[0].in_use


async def test_a_damaged_frame_leaves_no_file(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache
) -> None:
    snapshot = await compressed(tmp_path, files)
    flip(snapshot / FRAMES_FILE, 50)
    results = await asyncio.gather(
        *(use(cache, snapshot) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, SnapshotDamaged) for result in results)
    assert left(cache) == []


@pytest.mark.parametrize("call", ["pwrite", "ftruncate"])
async def test_a_disk_that_fills_up_leaves_no_file(
    tmp_path: Path,
    files: SnapshotFiles,
    cache: MemoryCache,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    snapshot = await compressed(tmp_path, files)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(DiskFull):
            await use(cache, snapshot)
    assert left(cache) == []
    await use(cache, snapshot)


async def test_a_note_that_does_not_fit_leaves_no_file(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = await compressed(tmp_path, files)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DiskFull):
        await use(cache, snapshot)
    assert left(cache) == []


async def test_a_file_that_somebody_changed_is_made_again(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache, unpackings: list[Path]
) -> None:
    snapshot = await compressed(tmp_path, files)
    flip(await use(cache, snapshot))
    await use(cache, snapshot)
    assert len(unpackings) == 2


async def test_an_earlier_boot_of_the_machine_does_not_count(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = await compressed(tmp_path, files)
    await use(cache, snapshot)
    monkeypatch.setattr(memory_cache, "boot_id", lambda: "another")
    await cache.tidy()
    assert left(cache) == []


async def test_at_the_start_what_a_dead_manager_left_goes(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache
) -> None:
    await cache.tidy()
    good = await use(cache, await compressed(tmp_path, files))
    half = good.with_name(f"{uuid4()}-0123456789abcdef.mem")
    half.with_name(f"{half.name}.new").write_bytes(b"half")
    half.write_bytes(b"without a note")
    good.with_name(f"{uuid4()}-0123456789abcdef.mem.json").write_text(json.dumps({}))
    await cache.tidy()
    assert left(cache) == [good.name, f"{good.name}.json"]


# -- eviction --------------------------------------------------------------------------------------


async def test_the_least_recently_used_go_first(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache
) -> None:
    snapshots = [await compressed(tmp_path, files) for _ in range(3)]
    for snapshot in snapshots:
        await use(cache, snapshot)
        await asyncio.sleep(0.02)  # so that their times differ
    await use(cache, snapshots[0])
    entries = await cache.entries()
    assert [str(e.snapshot_id) for e in entries] == [snapshots[n].name for n in (1, 2, 0)]
    size = entries[0].size_bytes
    assert size > 0
    gone = await cache.evict(2 * size)
    assert [str(e.snapshot_id) for e in gone] == [snapshots[1].name]
    assert await cache.evict(2 * size) == []
    unknown = await cache.evict(2 * size, known={UUID(snapshots[0].name)})
    assert [str(e.snapshot_id) for e in unknown] == [snapshots[2].name]
    await cache.evict(0)
    assert left(cache) == []


async def test_one_that_is_about_to_be_opened_or_that_a_vm_maps_stays(
    tmp_path: Path, files: SnapshotFiles, vms: list[VmHandle], cache: MemoryCache
) -> None:
    snapshot, other = [await compressed(tmp_path, files) for _ in range(2)]
    await use(cache, other)
    async with cache.unpacked(snapshot, load_manifest(snapshot)) as path:
        assert [entry.in_use for entry in await cache.entries()] == [False, True]
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    vms.append(VmHandle("vm-1", "mine", os.getpid(), 0, "", tmp_path))
    assert [str(e.snapshot_id) for e in await cache.evict(0)] == [other.name]
    assert [entry.in_use for entry in await cache.entries()] == [True]
    assert await cache.evict(0, known=()) == []
    mapped.close()
    assert [entry.path for entry in await cache.evict(0)] == [path]


async def test_the_mapping_of_a_removed_file_does_not_keep_the_next_one(
    tmp_path: Path, files: SnapshotFiles, vms: list[VmHandle], cache: MemoryCache
) -> None:
    snapshot = await compressed(tmp_path, files)
    path = await use(cache, snapshot)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        vms.append(VmHandle("vm-1", "mine", os.getpid(), 0, "", tmp_path))
        path.unlink()
        await use(cache, snapshot)
        assert len(await cache.evict(0)) == 1
        assert mapped[:] == MEMORY


async def test_a_vm_that_is_gone_maps_nothing(
    tmp_path: Path, files: SnapshotFiles, vms: list[VmHandle], cache: MemoryCache
) -> None:
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    vms.append(VmHandle("vm-1", "mine", process.pid, 0, "", tmp_path))
    await use(cache, await compressed(tmp_path, files))
    assert len(await cache.evict(0)) == 1


async def test_one_that_is_being_unpacked_stays(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = await compressed(tmp_path, files)
    began, go_on, real = threading.Event(), threading.Event(), memory_frames.unpack

    def slow(source: Path, target: Path, stop: threading.Event, *, sync: bool) -> None:
        real(source, target, stop, sync=sync)
        began.set()
        assert go_on.wait(60)

    monkeypatch.setattr(memory_frames, "unpack", slow)
    using = asyncio.create_task(use(cache, snapshot))
    assert await asyncio.to_thread(began.wait, 60)
    assert await cache.evict(0) == []
    go_on.set()
    assert (await asyncio.wait_for(using, 60)).exists()


async def test_at_every_unpacking_the_others_make_room_for_it(
    tmp_path: Path, files: SnapshotFiles, cache: MemoryCache
) -> None:
    cache.budget_bytes = 1
    for _ in range(2):
        path = await use(cache, await compressed(tmp_path, files))
        assert left(cache) == [path.name, f"{path.name}.json"]


ids = [UUID(int=number) for number in range(4)]
entries = st.lists(
    st.builds(
        CacheEntry,
        st.integers(0, 10**9).map(lambda number: Path(f"/cache/{number}")),
        st.sampled_from(ids),
        st.integers(0, 100),
        st.integers(0, 1000).map(lambda s: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=s)),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda entry: entry.path,
)


@given(entries, st.integers(0, 400), st.none() | st.sets(st.sampled_from(ids)))
def test_what_goes_is_enough_and_not_too_much(
    there: list[CacheEntry], budget: int, known: set[UUID] | None
) -> None:
    gone = over_budget(there, budget, known)
    stays = [entry for entry in there if entry not in gone]
    assert not any(entry.in_use for entry in gone)
    assert sum(e.size_bytes for e in stays) <= budget or all(e.in_use for e in stays)
    assert known is None or all(e.snapshot_id in known or e.in_use for e in stays)
    wanted = [e for e in gone if known is None or e.snapshot_id in known]
    if wanted:
        last = wanted[-1]
        assert sum(e.size_bytes for e in [*stays, last]) > budget
        assert all(e.in_use or e.last_used >= last.last_used for e in stays)

"""A compressed snapshot on real QEMU: boots from it are warm, share one file, and notice damage."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.e2e.copies import add_copy, shared_snapshot
from tests.e2e.guests import inside
from tests.support.vms import TINY, Site

from warmboot.client.results import RuntimeSnapshot
from warmboot.hypervisors.memory.frames import Frames
from warmboot.model.runtime_snapshot import FRAMES_FILE, MEMORY_FILE, SnapshotState

_DOCKERD = (
    "for d in /proc/[0-9]*; do "
    '[ "$(busybox cat $d/comm 2>/dev/null)" = dockerd ] && busybox cat $d/stat; done; true'
)


@pytest.fixture(scope="module")
async def compressing(site: Site) -> AsyncIterator[Site]:
    """The shared site; no VM of it was restored before somebody asked."""
    await site.remove_containers()
    settings = dict(site.settings)
    off = ("POOL_MAX_VMS", "UNPACK_AFTER_BOOTS", "COMPRESS_AFTER_H")
    site.settings.update(
        {f"MANAGER_{name}": "0" for name in off} | {"MANAGER_AUTO_REBUILD": "false"}
    )
    await site.stop()
    await site.start()
    try:
        yield site
    finally:
        await _unpack(site)
        site.settings.clear()
        site.settings.update(settings)
        await site.stop()
        await site.start()


async def _snapshot(site: Site) -> RuntimeSnapshot:
    async with site.client() as client:
        (snapshot,) = [s for s in await client.snapshots.list() if s.state == "ready"]
        return snapshot


async def _unpack(site: Site) -> RuntimeSnapshot:
    snapshot = await _snapshot(site)
    if snapshot.metadata["compressed"]:
        await site.cli("snapshot", "unpack", snapshot.id)
    return await _snapshot(site)


async def _booted(site: Site, name: str) -> dict[str, Any]:
    found = await site.run(name, TINY, "sleep", "1000")
    assert found["boot_method"] == "warm", found["fallback_details"]
    return found


async def _frozen_dockerd(site: Site, name: str) -> tuple[str, str]:
    """Docker's pid and the tick at which it was started: in the kernel's memory and nowhere else,
    and another for each cold boot."""
    async with site.link(await site.vm(name)) as link:
        stat = await inside(link, _DOCKERD)
    pid, _, fields = stat.strip().partition(" (dockerd) ")
    return pid, fields.split()[19]


def _memory_of(site: Site, record_pid: int) -> set[Path]:
    """The files that a VMM maps as the memory of its guest."""
    maps = Path(f"/proc/{record_pid}/maps").read_text()
    return {Path(name) for name in re.findall(rf"({re.escape(str(site.storage))}\S*\.mem)", maps)}


async def test_a_compressed_snapshot_boots_warm_with_its_memory_and_boots_share_a_file(
    compressing: Site,
) -> None:
    site = compressing
    before = await _unpack(site)
    await _booted(site, "plain")
    frozen = await _frozen_dockerd(site, "plain")
    assert before.metadata["compressed"] is False

    await site.cli("snapshot", "compress", before.id)
    after = await _snapshot(site)
    folder = Path(after.snapshot_path)
    assert (folder / FRAMES_FILE).exists()
    assert not (folder / MEMORY_FILE).exists()
    assert after.metadata["compressed"] is True
    stored = after.metadata["compressed_size_bytes"]
    assert stored == (folder / FRAMES_FILE).stat().st_size
    assert stored / after.metadata["mem_nonzero_bytes"] <= 0.45
    assert after.metadata["size_bytes"] < before.metadata["size_bytes"]
    assert after.metadata["mem_size_bytes"] == before.metadata["mem_size_bytes"]
    assert await site.exec("plain", "echo alive") == "alive\n", "it maps the file that was removed"

    first, *others = await asyncio.gather(*(_booted(site, f"packed-{n}") for n in range(3)))
    cache = list((site.storage / "cache" / "memory").glob("*.mem"))
    assert len(cache) == 1
    assert cache[0].name.startswith(before.id)
    for found in (first, *others):
        record = await site.vm(found["name"])
        assert record.handle is not None
        assert _memory_of(site, record.handle.pid) == set(cache)
        assert await _frozen_dockerd(site, found["name"]) == frozen
    made = cache[0].stat()
    await _booted(site, "later")
    assert (cache[0].stat().st_ino, cache[0].stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    await site.remove_containers()
    assert site.temporary_files() == []


@contextlib.contextmanager
def _flipped_bit(path: Path) -> Iterator[None]:
    """In a frame that holds something; as it was afterwards."""
    with Frames(path) as frames:
        entry = max(frames.entries, key=lambda entry: entry.length)
    at = entry.offset + entry.length // 2
    with path.open("r+b") as file:
        file.seek(at)
        original = file.read(1)
        file.seek(at)
        file.write(bytes([original[0] ^ 0x10]))
    yield
    with path.open("r+b") as file:
        file.seek(at)
        file.write(original)


async def test_a_flipped_bit_in_a_frame_is_noticed_and_marks_the_snapshot(
    compressing: Site,
) -> None:
    site = compressing
    snapshot = await _snapshot(site)
    # Of weight 0: it serves where the other one cannot.
    spare = await add_copy(site, await shared_snapshot(site), weight=0)
    await site.cli("snapshot", "compress", snapshot.id)
    folder = Path(snapshot.snapshot_path)
    with _flipped_bit(folder / FRAMES_FILE):
        found = await site.run("other", TINY, "sleep", "1000")
        (attempt,) = found["boot_attempts"]
        assert (attempt["snapshot_id"], attempt["reason"]) == (snapshot.id, "snapshot_damaged")
        assert FRAMES_FILE in attempt["details"]
        assert (found["boot_method"], found["runtime_snapshot_id"]) == ("warm", str(spare.id))
        async with site.client() as client:
            marked = await client.snapshots.get(snapshot.id)
            assert marked.state == "unhealthy"
            assert marked.error is not None
            assert "rebuild" in marked.error["resolution"]
    await site.remove_containers()
    await site.cli("snapshot", "rm", str(spare.id))
    # What was damaged for this test is whole again, and serves the next ones.
    async with site.store() as store:
        await store.snapshots.record_success(UUID(snapshot.id), datetime.now(UTC))
        await store.snapshots.set_state(UUID(snapshot.id), SnapshotState.READY)
    await _booted(site, "healed")
    await site.remove_containers()

"""Uploads leave the disk its floor, before they begin and while they come, all of them together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
from tests.support.room import Disk

from warmboot.manager.core.uploads import Uploads
from warmboot.model.errors import DiskFull

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path, size_bytes=100 * MIB, floor_bytes=50 * MIB)


async def chunks(size_bytes: int, taken: list[int] | None = None) -> AsyncIterator[bytes]:
    for _ in range(size_bytes // MIB):
        if taken is not None:
            taken.append(MIB)
        yield b"x" * MIB


async def test_what_comes_is_written_down_and_summed(disk: Disk, tmp_path: Path) -> None:
    digest = await Uploads(disk).receive(tmp_path / "a", chunks(3 * MIB), 3 * MIB)
    assert digest == sha256(b"x" * 3 * MIB).hexdigest()
    assert (tmp_path / "a").stat().st_size == 3 * MIB


async def test_one_that_says_it_does_not_fit_is_refused_before_it_comes(
    disk: Disk, tmp_path: Path
) -> None:
    taken: list[int] = []
    with pytest.raises(DiskFull):
        await Uploads(disk).receive(tmp_path / "a", chunks(60 * MIB, taken), 60 * MIB)
    assert not taken
    assert not list(tmp_path.iterdir())


async def test_one_without_a_length_is_cut_off_at_the_floor_and_leaves_nothing(
    disk: Disk, tmp_path: Path
) -> None:
    with pytest.raises(DiskFull):
        await Uploads(disk).receive(tmp_path / "a", chunks(1000 * MIB), None)
    assert disk.least_free_bytes >= disk.floor_bytes
    assert not list(tmp_path.iterdir())


async def test_many_without_a_length_do_not_go_below_the_floor_together(
    disk: Disk, tmp_path: Path
) -> None:
    uploads, names = Uploads(disk), "abcdefgh"
    work = (uploads.receive(tmp_path / name, chunks(20 * MIB), None) for name in names)
    done = await asyncio.gather(*work, return_exceptions=True)
    assert all(isinstance(one, DiskFull) for one in done if not isinstance(one, str))
    assert disk.least_free_bytes >= disk.floor_bytes


async def test_two_that_fit_alone_do_not_fill_the_disk_together(disk: Disk, tmp_path: Path) -> None:
    uploads, begun, release = Uploads(disk), asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.set()
        await release.wait()
        async for chunk in chunks(30 * MIB):
            yield chunk

    first = asyncio.create_task(uploads.receive(tmp_path / "a", slow(), 30 * MIB))
    await asyncio.wait_for(begun.wait(), 60)
    with pytest.raises(DiskFull):
        await uploads.receive(tmp_path / "b", chunks(30 * MIB), 30 * MIB)
    with pytest.raises(DiskFull):
        await uploads.receive(tmp_path / "c", chunks(30 * MIB), None)
    release.set()
    await first
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


async def test_what_was_announced_and_broke_off_is_no_longer_waited_for(
    disk: Disk, tmp_path: Path
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionResetError

    uploads = Uploads(disk)
    with pytest.raises(ConnectionResetError):
        await uploads.receive(tmp_path / "a", broken(), 40 * MIB)
    await uploads.receive(tmp_path / "b", chunks(40 * MIB), 40 * MIB)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]

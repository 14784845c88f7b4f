"""The memory of a cold checkpoint is compressed and unpacked; what breaks off leaves one form."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from warmboot.criu.runtime import compression
from warmboot.criu.runtime.cold import ColdCheckpoints
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.sums import BLOCK_BYTES, SUMS, check_sums
from warmboot.model.errors import CheckpointError, DiskFull
from warmboot.system.concurrency import end


async def _here(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


@pytest.fixture
def made(tmp_path: Path) -> CheckpointFolder:
    """A published one, of two processes, whose memory is easily compressed."""
    folder = CheckpointFolder(tmp_path / "worker" / "cp")
    making = folder.begin()
    (making.memory / "pages-1.img").write_bytes(os.urandom(4096) * 3000 + b"end")
    (making.memory / "pages-2.img").write_bytes(b"x" * (2 * BLOCK_BYTES))
    (making.memory / "inventory.img").write_bytes(b"inventory")
    making.files.mkdir()
    (making.files / "log").write_bytes(b"log")
    folder.publish()
    return folder


@pytest.fixture
def cold() -> ColdCheckpoints:
    return ColdCheckpoints(_here)


def _names(made: CheckpointFolder) -> list[str]:
    assert not list(made.path.glob(f"{compression.NEW}-*")), "nothing half-made is left"
    return sorted(path.name for path in made.memory.iterdir())


PLAIN = ["inventory.img", "pages-1.img", "pages-2.img"]
COLD = ["inventory.img", "pages-1.img.zst", "pages-2.img.zst"]


def _size(made: CheckpointFolder) -> int:
    return sum(path.stat().st_size for path in made.memory.iterdir())


async def test_it_is_smaller_and_comes_back_as_it_was(
    made: CheckpointFolder, cold: ColdCheckpoints
) -> None:
    before = _size(made)
    assert await cold.compress(made.path)
    assert _names(made) == COLD
    assert _size(made) < before / 100
    assert await cold.compress(made.path), "again it changes nothing"
    async with cold.held_plain(made.path) as unpacked:
        assert unpacked
        assert _names(made) == PLAIN
        check_sums(made.path, made.memory)
    async with cold.held_plain(made.path) as unpacked:
        assert not unpacked


async def test_at_low_priority_it_is_the_same(made: CheckpointFolder) -> None:
    assert await ColdCheckpoints().compress(made.path)
    assert _names(made) == COLD


async def test_who_reads_it_meanwhile_is_not_disturbed(made: CheckpointFolder) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> Path:
        begun.set()
        assert go_on.wait(60)
        return compression.pack(*arguments)

    async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
        assert function is compression.pack
        return await asyncio.to_thread(slowly, *arguments)

    cold = ColdCheckpoints(in_thread)
    compressing = asyncio.ensure_future(cold.compress(made.path))
    assert await asyncio.to_thread(begun.wait, 60)
    async with cold.held_plain(made.path) as unpacked:
        assert not unpacked
        go_on.set()
        assert await compressing is False
        assert _names(made) == PLAIN
        check_sums(made.path, made.memory)
        assert await cold.compress(made.path) is False
    assert await cold.compress(made.path)


async def test_an_unpacking_that_is_cancelled_leaves_it_as_it_was(
    made: CheckpointFolder, cold: ColdCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cold.compress(made.path)
    begun = threading.Event()

    class Slow:
        def read_to_iter(self, source: object, size: int) -> Iterator[bytes]:
            for _ in range(10_000):
                begun.set()
                time.sleep(0.001)  # a reader that is slow
                yield b""

    async def unpack() -> None:
        async with cold.held_plain(made.path):
            pass

    with monkeypatch.context() as patched:
        patched.setattr(zstandard, "ZstdDecompressor", Slow)
        unpacking = asyncio.ensure_future(unpack())
        assert await asyncio.to_thread(begun.wait, 60)
        await end(unpacking)
    assert unpacking.cancelled()
    assert _names(made) == COLD
    await unpack()
    check_sums(made.path, made.memory)


def _both_forms(made: CheckpointFolder) -> None:
    """As after a kill between the two steps of a change."""
    plain = made.memory / "pages-1.img"
    compression.pack(plain, None).rename(plain.with_name("pages-1.img.zst"))


def _half_packed(made: CheckpointFolder) -> None:
    (made.path / f"{compression.NEW}-pages-1.img.zst").write_bytes(b"half")


def _half_unpacked(made: CheckpointFolder) -> None:
    plain = made.memory / "pages-1.img"
    compression.take(compression.pack(plain, None), plain)
    (made.path / f"{compression.NEW}-pages-1.img").write_bytes(b"half")


@pytest.mark.parametrize("kill", [_both_forms, _half_packed, _half_unpacked])
@pytest.mark.parametrize("then", ["unpack", "compress"])
async def test_a_kill_leaves_one_form_that_counts(
    made: CheckpointFolder,
    cold: ColdCheckpoints,
    kill: Callable[[CheckpointFolder], None],
    then: str,
) -> None:
    kill(made)
    if then == "compress":
        assert await cold.compress(made.path)
        assert _names(made) == COLD
    async with cold.held_plain(made.path):
        check_sums(made.path, made.memory)
    await cold.compress(made.path)
    assert _names(made) == COLD


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """When it is called, what is written does not fit any more."""

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(os, "fsync", refuse)


async def test_a_full_disk_leaves_it_plain(
    made: CheckpointFolder, cold: ColdCheckpoints, full_disk: Callable[[], None]
) -> None:
    full_disk()
    with pytest.raises(DiskFull, match="could not be compressed"):
        await cold.compress(made.path)
    assert _names(made) == PLAIN
    check_sums(made.path, made.memory)


async def test_a_full_disk_leaves_it_compressed(
    made: CheckpointFolder,
    cold: ColdCheckpoints,
    full_disk: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await cold.compress(made.path)
    with monkeypatch.context():
        full_disk()
        with pytest.raises(DiskFull, match="could not be unpacked"):
            async with cold.held_plain(made.path):
                pass
    monkeypatch.undo()
    assert _names(made) == COLD
    async with cold.held_plain(made.path):
        check_sums(made.path, made.memory)


async def test_damage_is_found_before_the_plain_form_is_given_up(
    made: CheckpointFolder, cold: ColdCheckpoints
) -> None:
    with (made.memory / "pages-2.img").open("r+b") as file:
        file.seek(BLOCK_BYTES + 5)
        file.write(b"y")
    with pytest.raises(CheckpointError, match="damaged") as caught:
        await cold.compress(made.path)
    assert "pages-2.img" in caught.value.details
    assert "pages-2.img" in _names(made)


async def test_damage_of_the_compressed_form_is_told(
    made: CheckpointFolder, cold: ColdCheckpoints
) -> None:
    await cold.compress(made.path)
    packed = made.memory / "pages-1.img.zst"
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    packed.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        async with cold.held_plain(made.path):
            pass
    assert "pages-1.img.zst" in caught.value.details
    assert _names(made) == COLD, "as it was, to look at"


async def test_one_without_sums_is_compared_with_itself(
    made: CheckpointFolder, cold: ColdCheckpoints
) -> None:
    content = (made.memory / "pages-1.img").read_bytes()
    (made.path / SUMS).unlink()
    await cold.compress(made.path)
    async with cold.held_plain(made.path):
        assert (made.memory / "pages-1.img").read_bytes() == content

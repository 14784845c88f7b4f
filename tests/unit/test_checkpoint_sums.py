"""A checkpoint that is not what was written is seen as damaged, and by which file."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from warmboot.criu.runtime import folders, sums
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.sums import BLOCK_BYTES, SUMS, check_sums, sums_of
from warmboot.model.errors import CheckpointError


@pytest.fixture
def made(tmp_path: Path) -> CheckpointFolder:
    """A published one, whose memory has more than one block."""
    folder = CheckpointFolder(tmp_path / "worker" / "cp")
    making = folder.begin()
    with (making.memory / "pages-1.img").open("wb") as pages:
        pages.write(os.urandom(BLOCK_BYTES + 3))
        pages.truncate(3 * BLOCK_BYTES + 5)
    (making.memory / "inventory.img").write_bytes(b"inventory")
    making.files.mkdir()
    (making.files / os.fsdecode(b"not-\xff-utf8")).write_bytes(b"x")
    (making.files / "link").symlink_to("/nowhere")
    folder.publish()
    return folder


@pytest.mark.parametrize("little", [True, False])
def test_all_is_on_the_disk_before_it_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, little: bool
) -> None:
    """By a sync of the disk if it has little to write, and else of each file and folder."""
    monkeypatch.setattr(folders, "LITTLE_BYTES", 1 << 60 if little else -1)
    folder = CheckpointFolder(tmp_path / "worker" / "cp")
    making = folder.begin().path
    (making / "memory" / "pages-1.img").write_bytes(b"x")
    there = {making, *(path for path in making.rglob("*")), making / SUMS}
    synced: list[Path] = []

    def sync(path: Path) -> None:
        assert not folder.path.exists()
        synced.append(path)

    monkeypatch.setattr(folders, "_sync", sync)
    monkeypatch.setattr(folders, "_sync_all_of_disk", sync)
    folder.publish()
    check_sums(folder.path, folder.memory)
    assert set(synced) == ({making} if little else there)


def test_a_sync_of_the_disk_is_done_or_told(tmp_path: Path) -> None:
    folders._sync_all_of_disk(tmp_path)
    with pytest.raises(FileNotFoundError):
        folders._sync_all_of_disk(tmp_path / "none")


def test_what_was_written_is_no_damage(made: CheckpointFolder) -> None:
    check_sums(made.path, made.memory)
    check_sums(made.path, made.files)


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(2 * BLOCK_BYTES + 1)
        file.write(b"\x01")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda memory: _flip(memory / "pages-1.img"), "pages-1.img is not what was written"),
        (lambda memory: os.truncate(memory / "pages-1.img", 5), "pages-1.img is not what"),
        (lambda memory: (memory / "inventory.img").unlink(), "inventory.img is missing"),
        (lambda memory: (memory / "more.img").touch(), "more.img is none of its files"),
        (lambda memory: (memory.parent / SUMS).write_text("[1]"), "attribute"),
        (lambda memory: (memory.parent / SUMS).write_text("{"), "Expecting"),
    ],
    ids=["a flipped bit", "cut off", "missing", "one more", "other sums", "half sums"],
)
def test_damage_is_named(
    made: CheckpointFolder, damage: Callable[[Path], object], named: str
) -> None:
    damage(made.memory)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        check_sums(made.path, made.memory)
    assert named in caught.value.details
    assert "`warmboot worker resume worker -c NAME`" in caught.value.resolution


def test_a_checkpoint_of_an_earlier_version_has_no_sums(made: CheckpointFolder) -> None:
    (made.path / SUMS).unlink()
    check_sums(made.path, made.memory)


def test_the_sums_are_those_of_the_standard_library(made: CheckpointFolder) -> None:
    """The runtime has no other, and a checkpoint may come to a machine that has none."""
    content = (made.memory / "pages-1.img").read_bytes()
    blocks = [content[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES)]
    expected = (len(content), *map(zlib.crc32, blocks))
    assert sums_of(made.path, made.memory)["memory/pages-1.img"] == expected


def test_of_a_sparse_file_only_what_is_in_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(1 << 29)
        file.write(b"x")
        file.truncate(1 << 30)
    before = _bytes_read()
    size, *sums = sums_of(tmp_path, tmp_path)["sparse"]
    assert _bytes_read() - before < 4 * BLOCK_BYTES
    assert size == 1 << 30
    one = ((1 << 29) // BLOCK_BYTES, zlib.crc32(b"x" + bytes(BLOCK_BYTES - 1)))
    assert [(at, found) for at, found in enumerate(sums) if found != sums[0]] == [one]
    assert sums[0] == zlib.crc32(bytes(BLOCK_BYTES))


def _bytes_read() -> int:
    """By this process so far, of files and whatever else."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_damage_of_the_memory_is_none_of_the_files(made: CheckpointFolder) -> None:
    _flip(made.memory / "pages-1.img")
    check_sums(made.path, made.files)


async def test_a_disk_that_gives_nothing_is_given_up(
    made: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, go_on = threading.Event(), threading.Event()

    def never(_: object) -> int:
        hangs.set()
        assert go_on.wait(60)
        return 0

    monkeypatch.setattr(sums, "_sum_of", never)
    with pytest.raises(CheckpointError, match="could not be checked") as caught:
        await sums.check_unless_it_hangs(made.path, made.memory, 0.1)
    go_on.set()
    assert hangs.is_set()
    assert str(made.memory) in caught.value.details
    assert "kernel's log" in caught.value.resolution


async def test_what_is_read_in_time_is_checked(made: CheckpointFolder) -> None:
    await sums.check_unless_it_hangs(made.path, made.memory, 60)
    _flip(made.memory / "pages-1.img")
    with pytest.raises(CheckpointError, match="damaged"):
        await sums.check_unless_it_hangs(made.path, made.memory, 60)


def test_what_cannot_be_read_is_raised_and_not_summed(
    made: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sums, "_sum_of", broken)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        check_sums(made.path, made.memory)
    assert "Input/output error" in caught.value.details

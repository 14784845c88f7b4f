"""Damage to a snapshot's folder is found, and looking for it is cheap until something changes."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.support.snapshots import (
    IMAGE_ID,
    PARTS,
    fill,
    make_image,
    published,
)

from warmboot.host.snapshots import snapshot_files
from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.model.errors import SnapshotDamaged
from warmboot.model.runtime_image import FileSum, RuntimeImage
from warmboot.model.runtime_snapshot import (
    DISK_FILE,
    MEMORY_FILE,
    METADATA_FILE,
    ROOTFS_FILE,
    STATE_FILE,
)
from warmboot.system.hashing import sum_file


@pytest.fixture
def image(tmp_path: Path) -> RuntimeImage:
    return make_image(tmp_path / "image")


@pytest.fixture
def files(tmp_path: Path) -> SnapshotFiles:
    return SnapshotFiles(tmp_path / "snapshots", os.getgid())


# -- damage ----------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])


def longer(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content + b"\0")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.unlink()
    path.write_bytes(content)


def flipped_in_place(path: Path) -> None:
    """The same inode and size, and the modification time set back."""
    status = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        byte = file.read(1)[0]
        file.seek(0)
        file.write(bytes([byte ^ 1]))
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def missing(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


DAMAGES = [truncated, longer, flipped, flipped_in_place, missing, a_folder, dangling]


@pytest.mark.parametrize("thorough", [False, True], ids=["check", "verify"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", PARTS)
async def test_damage_to_a_file_is_found(
    files: SnapshotFiles,
    image: RuntimeImage,
    name: str,
    damage: Callable[[Path], None],
    thorough: bool,
) -> None:
    path = await published(files, image)
    await files.check(path)
    damage(path / name)
    with pytest.raises(SnapshotDamaged) as caught:
        await (files.verify if thorough else files.check)(path)
    assert name in caught.value.details
    assert "rebuild" in caught.value.resolution


async def test_a_version_that_comes_or_goes_gives_the_others_nothing_to_sum(
    files: SnapshotFiles, image: RuntimeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the image's root file system, and each link to it changes its change time."""
    first, second = await published(files, image), await published(files, image)
    third = await published(files, image)
    await files.discard(IMAGE_ID, UUID(second.name))
    summed: list[Path] = []
    monkeypatch.setattr(snapshot_files, "sum_file", summed.append)
    for path in (first, third):
        await files.check(path)
    assert summed == []


async def test_damage_beside_a_new_link_is_still_found(
    files: SnapshotFiles, image: RuntimeImage
) -> None:
    path = await published(files, image)
    flipped_in_place(path / ROOTFS_FILE)
    await fill(files, image, uuid4())
    with pytest.raises(SnapshotDamaged, match=ROOTFS_FILE):
        await files.check(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"files": {}}',
        "\x00\xff",
    ],
)
async def test_damage_to_the_metadata_is_found(
    files: SnapshotFiles, image: RuntimeImage, text: str
) -> None:
    path = await published(files, image)
    (path / METADATA_FILE).write_bytes(text.encode("latin-1"))
    for look in (files.check, files.verify):
        with pytest.raises(SnapshotDamaged):
            await look(path)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"snapshot_id": str(UUID(int=1))},
        {"shape": {"vcpus": 0, "memory_mib": 256}},
        {"created_at": "yesterday"},
        {"files": {"../../etc/passwd": {"size_bytes": 1, "sha256": "00"}}},
        {"files": [1, 2]},
        {"requires": None},
    ],
    ids=lambda change: str(change)[:30],
)
async def test_metadata_that_is_not_this_snapshots_is_found(
    files: SnapshotFiles, image: RuntimeImage, change: dict[str, Any]
) -> None:
    path = await published(files, image)
    document = json.loads((path / METADATA_FILE).read_text()) | change
    (path / METADATA_FILE).write_text(json.dumps(document))
    with pytest.raises(SnapshotDamaged):
        await files.check(path)


async def test_a_folder_that_is_not_there_is_damage(files: SnapshotFiles) -> None:
    with pytest.raises(SnapshotDamaged):
        await files.check(files.path(IMAGE_ID, uuid4()))


async def test_the_check_is_cheap_until_something_changes(
    files: SnapshotFiles, image: RuntimeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await published(files, image)
    summed: list[str] = []

    def counting(part: Path) -> FileSum:
        summed.append(part.name)
        return sum_file(part)

    monkeypatch.setattr(snapshot_files, "sum_file", counting)
    await files.check(path)
    assert summed == []
    os.utime(path / MEMORY_FILE)  # touched, as by a backup: looked at once more, and found good
    await files.check(path)
    assert summed == [MEMORY_FILE]
    await files.check(path)
    assert summed == [MEMORY_FILE]
    await files.verify(path)
    assert sorted(summed[1:]) == sorted(PARTS)


async def test_sums_that_have_time_are_taken_by_a_process_of_its_own(
    files: SnapshotFiles, image: RuntimeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of low priority that shares the manager's lock would keep the manager waiting."""
    path = await published(files, image)
    manifest = await files.check(path)

    def here(_: Path) -> FileSum:
        raise AssertionError("a sum was taken in this process")

    os.utime(path / MEMORY_FILE)
    monkeypatch.setattr(snapshot_files, "sum_file", here)
    assert await files.verify(path, low_priority=True) == manifest
    assert await files.check(path) == manifest, "what was found is noted"
    flipped(path / DISK_FILE)
    with pytest.raises(SnapshotDamaged) as told:
        await files.verify(path, low_priority=True)
    assert DISK_FILE in told.value.details


@pytest.mark.parametrize("note", ["", "{", "[]", '{"snapshot.mem": 7}'])
async def test_a_damaged_note_costs_sums_and_nothing_else(
    files: SnapshotFiles, image: RuntimeImage, note: str
) -> None:
    path = await published(files, image)
    (path / ".seen.json").write_text(note)
    await files.check(path)
    flipped(path / STATE_FILE)
    with pytest.raises(SnapshotDamaged):
        await files.check(path)


async def test_a_note_that_cannot_be_written_is_no_damage(
    files: SnapshotFiles, image: RuntimeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await published(files, image)
    os.utime(path / MEMORY_FILE)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    await files.check(path)
    assert not list(path.glob("*.new"))

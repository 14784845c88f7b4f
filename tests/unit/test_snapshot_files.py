"""Snapshot folders: whole or not there, whatever fails on the way; and damage is found."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warmboot.host.snapshots import snapshot_files
from warmboot.host.snapshots.snapshot_files import SnapshotFiles, load_manifest, manifest_to_json
from warmboot.model.errors import SnapshotDamaged, WarmbootError
from warmboot.model.runtime_image import FileSum, RuntimeImage, RuntimeImageManifest
from warmboot.model.runtime_snapshot import (
    DISK_FILE,
    MEMORY_FILE,
    METADATA_FILE,
    ROOTFS_FILE,
    STATE_FILE,
    HostRequirements,
    SnapshotManifest,
)
from warmboot.model.shapes import Shape
from warmboot.system.file_stamps import STAMPS_FILE
from warmboot.system.hashing import sum_file

PARTS = (MEMORY_FILE, STATE_FILE, ROOTFS_FILE, DISK_FILE)
IMAGE_ID = UUID(int=7)


@pytest.fixture
def image(tmp_path: Path) -> RuntimeImage:
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "rootfs.ext4").write_bytes(b"root" * 1000)
    (folder / "disk.ext4").write_bytes(b"disk" * 1000)
    manifest = RuntimeImageManifest("sha256:00", {}, "quiet", "1")
    return RuntimeImage(IMAGE_ID, "image", "sha256:00", folder, manifest, datetime.now(UTC))


@pytest.fixture
def files(tmp_path: Path) -> SnapshotFiles:
    return SnapshotFiles(tmp_path / "snapshots", os.getgid())


def manifest_for(snapshot_id: UUID) -> SnapshotManifest:
    return SnapshotManifest(
        snapshot_id=snapshot_id,
        image_digest="sha256:00",
        agent_version="1",
        shape=Shape(1, 256),
        requires=HostRequirements("simulated", "1.0", "none", "simulated", "simulated"),
        files={},
        created_at=datetime.now(UTC),
        cmdline="quiet",
    )


async def fill(files: SnapshotFiles, image: RuntimeImage, snapshot_id: UUID) -> Path:
    folder = await files.begin(image, snapshot_id)
    (folder / MEMORY_FILE).write_bytes(b"memory" * 1000)
    (folder / STATE_FILE).write_bytes(b"state")
    return folder


async def published(files: SnapshotFiles, image: RuntimeImage) -> Path:
    snapshot_id = uuid4()
    folder = await fill(files, image, snapshot_id)
    await files.publish(folder, manifest_for(snapshot_id))
    return files.path(IMAGE_ID, snapshot_id)


# -- publishing ------------------------------------------------------------------------------------


async def test_a_published_folder_is_whole(files: SnapshotFiles, image: RuntimeImage) -> None:
    path = await published(files, image)
    manifest = await files.verify(path)
    assert set(manifest.files) == set(PARTS)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert (path / ROOTFS_FILE).samefile(image.rootfs), "the root file system is not copied"
    assert not (path / DISK_FILE).samefile(image.disk)
    assert (path / MEMORY_FILE).stat().st_mode & 0o222 == 0, "nobody writes to it any more"


SYSTEM_CALLS: list[tuple[object, str]] = [
    (Path, "mkdir"),
    (Path, "chmod"),
    (Path, "write_text"),
    (Path, "rename"),
    (os, "chown"),
    (os, "link"),
    (os, "fsync"),
    (os, "open"),
    (snapshot_files, "sum_file"),
    (snapshot_files, "copy_file"),
]


class Killed(BaseException):
    """The process is no more: no handler of ours runs."""


@contextmanager
def failing(number: int, error: BaseException, after: bool) -> Iterator[list[str]]:
    """The ``number``-th call of the file system fails, before or after it had its effect."""
    calls: list[str] = []
    patch = pytest.MonkeyPatch()

    def wrap(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            mine = len(calls) == number
            if mine and not after:
                raise error
            result = real(*args, **kwargs)
            if mine:
                raise error
            return result

        patch.setattr(owner, name, call)

    try:
        for owner, name in SYSTEM_CALLS:
            wrap(owner, name)
        yield calls
    finally:
        patch.undo()


def visible(files: SnapshotFiles) -> list[Path]:
    """Folders that would be taken for a snapshot."""
    return [path for path in files.root.glob("*/*") if not path.name.startswith(".")]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_call_leaves_either_none_or_a_whole_one(
    files: SnapshotFiles, image: RuntimeImage, after: bool
) -> None:
    number, finished = 0, False
    while not finished:
        number += 1
        assert number < 200
        shutil.rmtree(files.root, ignore_errors=True)
        snapshot_id = uuid4()
        with failing(number, Killed(), after) as calls:
            try:
                folder = await fill(files, image, snapshot_id)
                await files.publish(folder, manifest_for(snapshot_id))
                finished = len(calls) < number
            except Killed:
                pass
        for path in visible(files):
            assert path.name == str(snapshot_id)
            await files.verify(path)
        # What is not visible is in nobody's way when it is begun again.
        await files.discard(IMAGE_ID, snapshot_id)
        assert list(files.root.glob("*/*")) == []
    assert number > 15, "many calls were made to fail"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_an_error_at_any_call_can_be_cleared_away_and_tried_again(
    files: SnapshotFiles, image: RuntimeImage, code: int
) -> None:
    number, finished = 0, False
    while not finished:
        number += 1
        snapshot_id = uuid4()
        with failing(number, OSError(code, os.strerror(code)), False) as calls:
            try:
                folder = await fill(files, image, snapshot_id)
                await files.publish(folder, manifest_for(snapshot_id))
                finished = len(calls) < number
            except (OSError, WarmbootError):
                for path in visible(files):  # only its last sync failed; its maker discards it
                    await files.verify(path)
        await files.discard(IMAGE_ID, snapshot_id)
        assert list(files.root.glob("*/*")) == []
        assert image.rootfs.read_bytes() == b"root" * 1000
    assert number > 15


async def test_a_crash_while_one_is_removed_never_leaves_a_part_of_it(
    files: SnapshotFiles, image: RuntimeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await published(files, image)

    def dies(target: Path, *_: object, **__: object) -> None:
        (Path(target) / MEMORY_FILE).unlink()
        raise Killed

    monkeypatch.setattr(shutil, "rmtree", dies)
    with pytest.raises(Killed):
        await files.discard(IMAGE_ID, UUID(path.name))
    monkeypatch.undo()
    assert visible(files) == []
    assert list(path.parent.iterdir()) == [path.with_name(f".gone-{path.name}")]
    await files.discard(IMAGE_ID, UUID(path.name))
    assert list(files.root.glob("*/*")) == []


async def test_a_new_one_never_touches_those_that_are_there(
    files: SnapshotFiles, image: RuntimeImage
) -> None:
    old = await published(files, image)
    before = {
        p.name: (p.stat().st_ino, p.read_bytes()) for p in old.iterdir() if p.name != STAMPS_FILE
    }
    await published(files, image)
    await fill(files, image, uuid4())
    assert {
        p.name: (p.stat().st_ino, p.read_bytes()) for p in old.iterdir() if p.name != STAMPS_FILE
    } == before
    await files.check(old)


async def test_discarding_is_idempotent(files: SnapshotFiles, image: RuntimeImage) -> None:
    path = await published(files, image)
    for _ in range(3):
        await files.discard(IMAGE_ID, UUID(path.name))
    assert not path.exists()
    await files.discard(uuid4(), uuid4())


async def test_beginning_again_starts_from_nothing(
    files: SnapshotFiles, image: RuntimeImage
) -> None:
    snapshot_id = uuid4()
    folder = await fill(files, image, snapshot_id)
    assert await files.begin(image, snapshot_id) == folder
    assert not (folder / MEMORY_FILE).exists()


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


# -- manifests -------------------------------------------------------------------------------------


texts = st.text(st.characters(codec="utf-8"), max_size=30)
sums = st.builds(FileSum, st.integers(0, 2**63), st.text("0123456789abcdef", max_size=64))
manifests = st.builds(
    SnapshotManifest,
    snapshot_id=st.uuids(),
    image_digest=texts,
    agent_version=texts,
    shape=st.builds(Shape, st.integers(1, 32), st.integers(128, 32_768).map(lambda n: 2 * n)),
    requires=st.builds(HostRequirements, texts, texts, texts, texts, texts),
    files=st.dictionaries(st.sampled_from(PARTS), sums),
    created_at=st.datetimes(timezones=st.just(UTC)),
    cmdline=texts,
    uid=st.integers(0, 2**31),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifests)
def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, manifest: SnapshotManifest) -> None:
    (tmp_path / METADATA_FILE).write_text(json.dumps(manifest_to_json(manifest)))
    assert load_manifest(tmp_path) == manifest
    assert replace(manifest) == manifest


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | texts,
        lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_for_a_manifest_are_damage_not_a_crash(tmp_path: Path, content: bytes) -> None:
    (tmp_path / METADATA_FILE).write_bytes(content)
    with pytest.raises(SnapshotDamaged):
        load_manifest(tmp_path)

"""Snapshot folders: whole or not there, whatever fails on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.failing_calls import Killed, failing
from tests.support.snapshots import (
    IMAGE_ID,
    PARTS,
    fill,
    make_image,
    manifest_for,
    published,
)

from warmboot.host.snapshots import snapshot_files
from warmboot.host.snapshots.snapshot_files import SnapshotFiles, load_manifest, manifest_to_json
from warmboot.model.errors import SnapshotDamaged, WarmbootError
from warmboot.model.runtime_image import FileSum, RuntimeImage
from warmboot.model.runtime_snapshot import (
    DISK_FILE,
    MEMORY_FILE,
    METADATA_FILE,
    ROOTFS_FILE,
    HostRequirements,
    SnapshotManifest,
)
from warmboot.model.shapes import Shape
from warmboot.system.file_stamps import STAMPS_FILE


@pytest.fixture
def image(tmp_path: Path) -> RuntimeImage:
    return make_image(tmp_path / "image")


@pytest.fixture
def files(tmp_path: Path) -> SnapshotFiles:
    return SnapshotFiles(tmp_path / "snapshots", os.getgid())


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
        with failing(SYSTEM_CALLS, number, Killed(), after=after) as calls:
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
        with failing(SYSTEM_CALLS, number, OSError(code, os.strerror(code))) as calls:
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


@given(manifests)
def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, manifest: SnapshotManifest) -> None:
    (tmp_path / METADATA_FILE).write_text(json.dumps(manifest_to_json(manifest)))
    assert load_manifest(tmp_path) == manifest
    assert replace(manifest) == manifest


A_MANIFEST = SnapshotManifest(
    snapshot_id=UUID(int=1),
    image_digest="sha256:0",
    agent_version="2",
    shape=Shape(1, 512),
    requires=HostRequirements("qemu", "10", "tcg", "q35", "max"),
    files={},
    created_at=datetime(2026, 1, 24, 12, tzinfo=UTC),
    cmdline="quiet",
    uid=7,
)


def test_what_a_newer_version_has_noted_beside_is_left_alone(tmp_path: Path) -> None:
    document = manifest_to_json(A_MANIFEST) | {"signed_by": "x"}
    (tmp_path / METADATA_FILE).write_text(json.dumps(document))
    assert load_manifest(tmp_path) == A_MANIFEST


def test_a_requirement_that_is_not_known_is_not_taken_for_met(tmp_path: Path) -> None:
    document = manifest_to_json(A_MANIFEST)
    document["requires"] |= {"numa": "2"}
    (tmp_path / METADATA_FILE).write_text(json.dumps(document))
    with pytest.raises(SnapshotDamaged, match="numa"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("name", ["uid", "cmdline", "requires", "files"])
def test_metadata_that_lacks_something_is_damage(tmp_path: Path, name: str) -> None:
    document = manifest_to_json(A_MANIFEST)
    del document[name]
    (tmp_path / METADATA_FILE).write_text(json.dumps(document))
    with pytest.raises(SnapshotDamaged, match=name):
        load_manifest(tmp_path)


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

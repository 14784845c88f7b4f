"""Image folders: what is wrong with them is found, by name."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from tests.support.image_folders import MIB, make_ext4, make_image

from warmboot.images.__main__ import good_image
from warmboot.images.files import (
    load_manifest,
    verify_runtime_image,
)
from warmboot.model.errors import ImageDamaged
from warmboot.system.hashing import copy_sparse, sum_extents, sum_file


@pytest.fixture
async def image(tmp_path: Path) -> Path:
    return await make_image(tmp_path / "image")


# --- sums and copies


def test_the_sum_of_a_sparse_file_is_the_ordinary_one(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(9 * MIB + 5)
        file.write(b"in the middle")
        file.seek(23 * MIB)
        file.write(b"and near the end")
        file.truncate(31 * MIB + 7)
    found = sum_file(path)
    assert found.size_bytes == 31 * MIB + 7
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum_file(Path(os.devnull)).sha256 == hashlib.sha256(b"").hexdigest()


def test_the_sum_of_the_data_alone_tells_content_and_place(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path, at in ((one, MIB), (other, 2 * MIB)):
        with path.open("wb") as file:
            file.seek(at)
            file.write(b"data")
            file.truncate(64 * MIB)
    copy_sparse(one, tmp_path / "copy")
    assert sum_extents(one) == sum_extents(tmp_path / "copy")
    assert sum_extents(one) != sum_extents(other)


def test_a_copy_is_equal_and_stays_sparse(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    make_ext4(path, 256 * MIB)
    copy_sparse(path, tmp_path / "copy")
    assert sum_file(path) == sum_file(tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_blocks * 512 < 32 * MIB


# --- what is damaged is found, by name


async def test_a_good_image_verifies(image: Path) -> None:
    manifest = await verify_runtime_image(image)
    assert manifest == load_manifest(image)
    assert "console=" not in manifest.cmdline
    assert set(manifest.files) == {"kernel", "initrd", "rootfs", "disk"}


@pytest.mark.parametrize("name", ["kernel", "initrd", "rootfs.ext4", "disk.ext4", "manifest.json"])
async def test_a_missing_file_is_named(image: Path, name: str) -> None:
    (image / name).unlink()
    with pytest.raises(ImageDamaged, match=name):
        await verify_runtime_image(image)


@pytest.mark.parametrize("name", ["kernel", "initrd", "rootfs.ext4", "disk.ext4"])
async def test_a_truncated_file_is_named(image: Path, name: str) -> None:
    os.truncate(image / name, (image / name).stat().st_size - 1)
    with pytest.raises(ImageDamaged, match=name):
        await verify_runtime_image(image)


@pytest.mark.parametrize("name", ["kernel", "initrd", "rootfs.ext4", "disk.ext4"])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
async def test_a_flipped_bit_is_named(image: Path, name: str, where: float) -> None:
    path = image / name
    with path.open("r+b") as file:
        file.seek(int((path.stat().st_size - 1) * where))
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(ImageDamaged, match=name):
        await verify_runtime_image(image)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"files": 1}', '{"files": {"kernel": {}}}', '"digest"', "\x00"],
)
async def test_a_broken_manifest_is_named(image: Path, text: str) -> None:
    (image / "manifest.json").write_text(text)
    with pytest.raises(ImageDamaged, match=r"manifest\.json"):
        await verify_runtime_image(image)


@pytest.mark.parametrize("key", ["kernel", "../../etc/passwd"])
async def test_a_manifest_that_was_edited_contradicts_itself(image: Path, key: str) -> None:
    document = json.loads((image / "manifest.json").read_text())
    document["files"][key] = {"size_bytes": 1, "sha256": "0" * 64}
    (image / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ImageDamaged, match=r"manifest\.json"):
        load_manifest(image)


def test_only_a_complete_image_of_the_present_recipe_spares_a_build(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert good_image(image) is not None
    monkeypatch.setattr("warmboot.images.__main__.recipe", lambda: "another")
    assert good_image(image) is None
    monkeypatch.undo()
    (image / "initrd").unlink()
    assert good_image(image) is None

"""A checkpoint's files, put back into the layer of a container that stands still."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmboot.criu.runtime import files
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.model.errors import HostError


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """A checkpoint of a worker that ran on: its layer has another file by now."""
    kept = CheckpointFolder(tmp_path / "worker" / "first")
    kept.files.mkdir(parents=True)
    (kept.files / "log").write_text("one\n")
    return kept


async def test_the_layer_has_the_checkpoints_files_again(
    tmp_path: Path, folder: CheckpointFolder
) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "later").touch()
    assert await files.put_back(folder, layer, "now")
    assert [path.name for path in layer.iterdir()] == ["log"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer", "worker"]


async def test_a_layer_that_cannot_be_exchanged_is_told_and_nothing_is_left(
    tmp_path: Path, folder: CheckpointFolder
) -> None:
    with pytest.raises(HostError, match="could not be put back") as told:
        await files.put_back(folder, tmp_path / "gone", "now")
    assert told.value.resolution
    assert [path.name for path in tmp_path.iterdir()] == ["worker"]

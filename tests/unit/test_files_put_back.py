"""A checkpoint's files in the worker's layer, also if putting them there was broken off."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmboot.criu.runtime import files
from warmboot.criu.runtime.files import forget_copy, put_back
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.model.errors import HostError


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    layer = tmp_path / "overlay" / "diff"
    layer.mkdir(parents=True)
    (layer / "state").write_text("late")
    return layer


def made(tmp_path: Path, name: str, paused_at_start: str = "") -> CheckpointFolder:
    folder = CheckpointFolder(tmp_path / "worker" / name)
    folder.files.mkdir(parents=True)
    (folder.files / "state").write_text(name)
    if paused_at_start:
        folder.note_pause(paused_at_start)
    return folder


async def test_those_of_the_last_pause_are_there_already(tmp_path: Path, layer: Path) -> None:
    late = made(tmp_path, "late", paused_at_start="then")
    assert not await put_back(late, layer, "then")


async def test_those_of_the_last_pause_come_back_after_another_one_was_tried(
    tmp_path: Path, layer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt breaks off before it is done; the third must not take it for done."""
    early, late = made(tmp_path, "early"), made(tmp_path, "late", paused_at_start="then")
    assert await put_back(early, layer, "then")

    def fails(_one: Path, _other: Path) -> None:
        raise OSError

    with monkeypatch.context() as broken, pytest.raises(HostError):
        broken.setattr(files, "_exchange", fails)
        await put_back(late, layer, "then")
    assert (layer / "state").read_text() == "early"
    assert await put_back(late, layer, "then")
    assert (layer / "state").read_text() == "late"


def test_a_copy_that_was_never_used_is_removed(layer: Path) -> None:
    left = layer.with_name("diff.warmboot-new")
    left.mkdir()
    forget_copy(layer)
    forget_copy(layer)
    assert not left.exists()
    assert layer.exists()

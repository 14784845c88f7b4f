"""What killed engines of tests have left is removed, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from testbed.private_dockerd import forget_containers

from warmboot.criu.runtime.orders import order
from warmboot.criu.runtime.program import NOTED

LONG_AGO = 1_000_000_000


def _noted(state: Path, name: str, root: Path, *, images: Path | None = None) -> Path:
    folder = state / name
    folder.mkdir(parents=True)
    (folder / NOTED).write_text(f"{root}\n/usr/sbin/runc\n")
    if images is not None:
        order(name, search_path="/bin", images=images, work=state, options=(), root=state)
    os.utime(folder, (LONG_AGO, LONG_AGO))
    return folder


def test_only_what_nobody_needs_any_more_goes(tmp_path: Path) -> None:
    state, there, gone = tmp_path / "state", tmp_path / "there", tmp_path / "gone"
    there.mkdir()
    runs = _noted(state, "runs", there)
    paused = _noted(state, "paused", gone, images=there)
    left = _noted(state, "left", gone)
    left_paused = _noted(state, "left-paused", gone, images=gone)
    new = state / "new"
    new.mkdir()
    forget_containers(state)
    assert set(state.iterdir()) == {runs, paused, new}
    assert not left.exists()
    assert not left_paused.exists()


def test_without_the_runtime_there_is_nothing_to_do(tmp_path: Path) -> None:
    forget_containers(tmp_path / "none")

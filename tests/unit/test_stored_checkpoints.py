"""What of the folder of checkpoints is this manager's, whose it is, and when it is left alone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.stored import STAGING, StoredCheckpoints

WORKER = uuid4()


@pytest.fixture
def stored(tmp_path: Path) -> StoredCheckpoints:
    return StoredCheckpoints(tmp_path, "ours", is_ours=False)


def _make(stored: StoredCheckpoints, worker: UUID, name: str) -> CheckpointFolder:
    folder = CheckpointFolder(stored.root / str(worker) / name)
    (folder.begin().memory / "pages-1.img").write_bytes(b"x" * 9000)
    folder.publish()
    return folder


def _owners(stored: StoredCheckpoints) -> list[str]:
    return [one.owner for one in stored.find()]


def test_a_workers_folder_comes_before_what_is_in_it(stored: StoredCheckpoints) -> None:
    stored.mark(WORKER)
    _make(stored, WORKER, "one")
    making = CheckpointFolder(stored.root / str(WORKER) / "two").begin()
    (stored.root / str(WORKER) / f"{STAGING}abc").mkdir()
    making.restore_work.mkdir()  # the worker's, not a checkpoint's
    place = str(WORKER)
    assert _owners(stored) == [
        place,
        f"{place}/.two.making",
        f"{place}/{STAGING}abc",
        f"{place}/one",
    ]
    sizes = {one.owner: one.size_bytes for one in stored.find()}
    assert sizes[place] > sizes[f"{place}/one"] >= 9000


def test_what_others_keep_there_is_not_looked_at(stored: StoredCheckpoints) -> None:
    _make(stored, uuid4(), "of-nobody-knows-whom")
    StoredCheckpoints(stored.root, "theirs", is_ours=False).mark(other := uuid4())
    _make(stored, other, "theirs")
    (stored.root / "lost+found").mkdir()
    (stored.root / str(uuid4())).symlink_to("/")
    (stored.root / str(uuid4())).write_text("a file")
    assert _owners(stored) == []


def test_below_the_storage_root_what_is_not_marked_is_ours_too(tmp_path: Path) -> None:
    stored = StoredCheckpoints(tmp_path, "ours", is_ours=True)
    _make(stored, WORKER, "one")
    StoredCheckpoints(tmp_path, "theirs", is_ours=False).mark(uuid4())
    assert _owners(stored) == [str(WORKER), f"{WORKER}/one"]


def test_without_a_folder_there_is_nothing(tmp_path: Path) -> None:
    assert _owners(StoredCheckpoints(tmp_path / "absent", "ours", is_ours=True)) == []


def test_what_was_touched_since_stays(stored: StoredCheckpoints) -> None:
    stored.mark(WORKER)
    folder = _make(stored, WORKER, "one")
    (_, found) = stored.find()
    (folder.memory / "more.img").write_bytes(b"x")
    assert not stored.remove(found)
    (_, found) = stored.find()
    assert stored.remove(found)
    assert not folder.path.exists()
    assert stored.remove(found)


@pytest.mark.root
def test_what_a_killed_criu_has_mounted_there_does_not_keep_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "it's a \\disk\u2028" / "one")
    mounted = folder.begin().path / "cgroup"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True)
    try:
        folder.begin()
        assert not mounted.exists()
    finally:
        subprocess.run(["umount", "--lazy", "--quiet", mounted], check=False)

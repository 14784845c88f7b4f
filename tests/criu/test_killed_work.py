"""Pauses and resumes whose runc or CRIU is killed at some step, with real ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.eventually import until_blocking
from tests.support.runtime_container import Container

from warmboot.criu.checkpoint import finish
from warmboot.criu.runtime import dump as dumping
from warmboot.criu.runtime import resume as resuming
from warmboot.criu.runtime_work import end_in, end_members, thaw
from warmboot.model.errors import CheckpointError

pytestmark = [pytest.mark.docker, pytest.mark.root]

KILLED = """#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = {action} ] || exit 0
[ -e {done} ] && exit 0
touch {done}
criu=$PPID
[ {victim} = criu ] || criu=$(cut -d" " -f4 /proc/$PPID/stat)
kill -9 $criu
"""


def _killer(folder: Path, action: str, victim: str) -> Path:
    """A script that kills CRIU, or its runc, once, when CRIU has come to ``action``."""
    script = folder / "killer"
    script.write_text(KILLED.format(action=action, victim=victim, done=folder / "killed"))
    script.chmod(0o700)
    return script


@pytest.mark.parametrize("victim", ["criu", "runc"])
@pytest.mark.parametrize("action", ["pre-dump", "post-dump"])
async def test_a_pause_whose_work_is_killed_is_whole_or_leaves_the_container_running(
    started: Callable[..., Container],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    action: str,
    victim: str,
) -> None:
    container = started()
    until_blocking(lambda: container.counted()[1] > 1)
    script = _killer(tmp_path, action, victim)
    monkeypatch.setattr(dumping, "OPTIONS", (*dumping.OPTIONS, f"action-script {script}"))
    pid, making = int(container.pid_file.read_text()), container.checkpoint.making
    with pytest.raises(CheckpointError):
        await container.pause()
    assert (tmp_path / "killed").exists()
    end_in(making.path)
    thaw(container.id, pid)
    if await dumping.is_done(making, pid):
        making.note_pause(container.started_at)
        container.checkpoint.publish()
        container("delete", "--force")
        monkeypatch.undo()
        await container.resume()
    _, before = container.counted()
    until_blocking(lambda: container.counted()[1] > before + 2)
    numbers = [int(line.rpartition(" ")[2]) for line in container.lines()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("victim", ["criu", "runc"])
@pytest.mark.parametrize("action", ["pre-dump", "post-dump"])
async def test_a_checkpoint_whose_work_is_killed_leaves_the_container_running(
    started: Callable[..., Container],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    action: str,
    victim: str,
) -> None:
    container = started()
    until_blocking(lambda: container.counted()[1] > 1)
    script = _killer(tmp_path, action, victim)
    monkeypatch.setattr(dumping, "OPTIONS", (*dumping.OPTIONS, f"action-script {script}"))
    pid = int(container.pid_file.read_text())
    with pytest.raises(CheckpointError):
        await container.pause(leave_running=True)
    assert (tmp_path / "killed").exists()
    end_in(container.checkpoint.making.path)
    thaw(container.id, pid)
    monkeypatch.undo()
    _, before = container.counted()
    until_blocking(lambda: container.counted()[1] > before + 2)
    await container.pause(leave_running=True)
    secret, at = container.counted()
    until_blocking(lambda: container.counted()[1] > at + 2)
    lines = container.lines()
    assert lines == [f"{secret} {number}" for number in range(1, len(lines) + 1)]


@pytest.mark.parametrize("victim", ["criu", "runc"])
@pytest.mark.parametrize(
    "action",
    ["pre-restore", "post-restore", "pre-resume", "post-resume"],
)
async def test_a_resume_whose_work_is_killed_leaves_nothing_and_can_be_done_again(
    started: Callable[..., Container],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    action: str,
    victim: str,
) -> None:
    container = started()
    until_blocking(lambda: container.counted()[1] > 1)
    await container.pause()
    secret, before = container.counted()
    script = _killer(tmp_path, action, victim)
    options = (*dumping.RESTORE_OPTIONS, f"action-script {script}")
    monkeypatch.setattr(resuming, "RESTORE_OPTIONS", options)
    with contextlib.suppress(AssertionError):
        await container.resume()
    assert (tmp_path / "killed").exists()
    end_members(container.id)
    container("delete", "--force")
    monkeypatch.undo()
    await container.resume()
    until_blocking(lambda: container.counted()[1] > before + 1)
    lines = container.lines()
    assert lines == [f"{secret} {number}" for number in range(1, len(lines) + 1)]


async def test_a_dump_that_was_not_on_the_disk_at_a_power_failure_does_not_count(
    started: Callable[..., Container],
) -> None:
    container = started()
    until_blocking(lambda: container.counted()[1] > 1)
    await container.pause(leave_running=True)
    folder = container.checkpoint
    folder.path.rename(folder.making.path)
    assert (await finish(folder)).processes, "of this boot: whole"
    folder.path.rename(folder.making.path)
    (folder.making.path / "boot-id").write_text("an earlier one\n")
    with pytest.raises(CheckpointError, match="not yet on the disk"):
        await finish(folder)
    assert not folder.path.exists()

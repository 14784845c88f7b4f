"""containerd's copies of restored memory are found wherever it puts them, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.eventually import until

from warmboot.criu.containerd import RestoreCopies, forget_restored, scratch_folders, work_in
from warmboot.manager.garbage.choose_garbage import Limits, Seen, choose_garbage
from warmboot.model.garbage import Why

pytestmark = pytest.mark.root

ENGINE = """
import socket, subprocess, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
subprocess.Popen(sys.argv[2:])
sys.stdin.read()
"""


@contextlib.asynccontextmanager
async def engine(
    folder: Path, before: str = "", namespace: tuple[str, ...] = (), **environment: str
) -> AsyncIterator[Path]:
    """A process named dockerd that listens, and its child containerd, that ran ``before`` first."""
    address, containerd = folder / "docker.sock", folder / "containerd"
    shutil.copy2("/bin/sleep", containerd)
    script = f"{before}\necho ready\nexec {containerd} 1000"
    process = await asyncio.create_subprocess_exec(
        *("dockerd", "-c", ENGINE, str(address), *namespace, "sh", "-c", script),
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHOME": sys.base_prefix, **environment},
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n"
        await until(lambda: bool(scratch_folders(address)))  # an exec tells nobody
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def copy(folder: Path, name: str, salt: str = "") -> Path:
    made = folder / name
    made.mkdir(parents=True, mode=0o700)
    (made / "pages-1.img").write_bytes(b"x" * 10_000)
    if salt:
        (made / "warmboot.salt").write_text(f"{salt}\n")
    return made


async def test_they_lie_where_containerd_was_told_to(tmp_path: Path) -> None:
    chosen, runtime = tmp_path / "chosen", tmp_path / "runtime"
    chosen.mkdir()
    runtime.mkdir()
    async with engine(tmp_path, TMPDIR=str(chosen), XDG_RUNTIME_DIR=str(runtime)) as address:
        assert scratch_folders(address) == (runtime, chosen)
    assert scratch_folders(address) == (), "nobody listens any more"


async def test_those_in_a_private_folder_are_found_and_removed(tmp_path: Path) -> None:
    """As systemd's PrivateTmp: what is mounted there is seen by containerd alone."""
    private = tmp_path / "private"
    private.mkdir()
    left = private / "ctrd-checkpoint77"
    # Nobody shall name it on a command line: that is being in use.
    script = f"mount -t tmpfs x {private}; mkdir {private}/ctrd-checkpoint$((70 + 7))"
    unshare = ("unshare", "--mount", "--propagation", "private")
    async with engine(
        tmp_path, script, unshare, TMPDIR=str(private), XDG_RUNTIME_DIR=""
    ) as address:
        copies = RestoreCopies(address)
        (found,) = copies.find()
        assert found.path.parts[1] == "proc"
        assert not left.exists()
        assert copies.remove(found)
        assert copies.find() == []


async def test_only_folders_of_our_own_user_and_of_such_a_name_are_looked_at(
    tmp_path: Path,
) -> None:
    scratch, elsewhere = tmp_path / "scratch", copy(tmp_path, "elsewhere")
    ours = copy(scratch, "ctrd-checkpoint1")
    theirs = copy(scratch, "ctrd-checkpoint2")
    os.chown(theirs, 12345, 12345)
    (scratch / "ctrd-checkpoint3").symlink_to(elsewhere)
    copy(scratch, "ctrd-checkpoint-x")
    dumped = copy(scratch, "ctd-checkpoint4")
    async with engine(tmp_path, TMPDIR=str(scratch), XDG_RUNTIME_DIR="") as address:
        assert [one.path for one in RestoreCopies(address).find()] == [ours]
        assert list(work_in(scratch_folders(address))) == [dumped, ours]


async def test_empty_folders_that_a_killed_criu_has_left_go_too(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    left, filled = scratch / ".criu.mntns.a1B2c3", scratch / ".criu.mntns.d4E5f6"
    for one in (left, filled / "something", scratch / ".criu.mntns.other-name"):
        one.mkdir(parents=True)
    async with engine(tmp_path, TMPDIR=str(scratch), XDG_RUNTIME_DIR="") as address:
        copies = RestoreCopies(address)
        (found,) = copies.find()
        assert found.path == left
        assert copies.remove(found)
        assert copies.find() == []
    assert filled.exists()


async def test_an_answered_restore_takes_its_own_copy_along(tmp_path: Path) -> None:
    ours, others = copy(tmp_path, "ctrd-checkpoint1", "a"), copy(tmp_path, "ctrd-checkpoint2", "b")
    unsalted = copy(tmp_path, "ctrd-checkpoint3")
    forget_restored((tmp_path,), ("a",))
    assert (ours.exists(), others.exists(), unsalted.exists()) == (False, True, True)


async def test_nothing_goes_while_anything_is_being_restored(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    left = copy(scratch, "ctrd-checkpoint1")
    async with engine(tmp_path, TMPDIR=str(scratch), XDG_RUNTIME_DIR="") as address:
        copies = RestoreCopies(address)
        (found,) = copies.find()
        restoring = await asyncio.create_subprocess_exec(
            *("runc", "-c", "echo ready; read x", "restore", "somebody's"),
            executable="/bin/sh",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert restoring.stdout is not None
        await restoring.stdout.readline()
        assert copies.find() == []
        assert not copies.remove(found)
        assert left.exists()
        await restoring.communicate(b"\n")
        assert copies.remove(found)


async def test_one_that_changed_since_it_was_looked_at_stays(tmp_path: Path) -> None:
    left = copy(tmp_path / "scratch", "ctrd-checkpoint1")
    async with engine(tmp_path, TMPDIR=str(left.parent), XDG_RUNTIME_DIR="") as address:
        copies = RestoreCopies(address)
        (found,) = copies.find()
        assert not copies.remove(replace(found, changed_at=found.changed_at - timedelta(1)))
        # A file unpacked from an archive has an old time of its own.
        os.utime(left / "pages-1.img", (0, 0))
        now = datetime.now(UTC)
        assert now - found.changed_at < timedelta(hours=1)
        assert choose_garbage(Seen(entries=[found]), Limits(1), now) == ()
        later = now + timedelta(hours=2)
        (garbage,) = choose_garbage(Seen(entries=[found]), Limits(1), later)
        assert (garbage.path, garbage.why) == (left, Why.ORPHAN)

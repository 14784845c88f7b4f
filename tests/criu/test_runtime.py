"""The runtime of workers with real runc and CRIU, called as an engine's shim calls it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.absent import ABSENT
from tests.support.dockerd import CRIU_WRAPPER
from tests.support.images import COUNTER, busybox

from warmboot.criu.binary import SEARCH_PATH
from warmboot.criu.images import read_dump
from warmboot.criu.in_progress import Work
from warmboot.criu.log import CriuLog
from warmboot.criu.open_files import io_uring_users
from warmboot.criu.refusals import dump_failure
from warmboot.criu.runtime import dump as dumping
from warmboot.criu.runtime import resume as resuming
from warmboot.criu.runtime.dump import dump
from warmboot.criu.runtime.files import put_back
from warmboot.criu.runtime.folders import CheckpointFolder, clear
from warmboot.criu.runtime.orders import ROOT, withdraw
from warmboot.criu.runtime.resume import give_order
from warmboot.criu.runtime_work import end_in, end_members, thaw
from warmboot.criu.setup.install_runtime import install_runtime
from warmboot.model.errors import CheckpointError, CheckpointRefused

pytestmark = [pytest.mark.docker, pytest.mark.root]

CRIU_PATH = f"{CRIU_WRAPPER.parent}:{SEARCH_PATH}"
TIMEOUT_S = 60.0
PROGRAMS = ("cat", "dd", "head", "ln", "od", "rm", "sleep", "tee", "true", "wc")


class Container:
    """A container of the runtime, without an engine. ``script`` writes to ``/output``."""

    def __init__(
        self, runtime: Path, folder: Path, script: str = COUNTER, python: str = ""
    ) -> None:
        self.id = f"test-{uuid4().hex}"
        self.runtime = runtime
        self.root = folder / "runc"
        self.bundle = folder / "bundle"
        self.rootfs = self.bundle / "rootfs"
        self.log = folder / "log.json"
        self.pid_file = folder / "pid"
        self.started_at = ""
        self.put_back = False
        self.checkpoint = CheckpointFolder(folder / "kept" / "cp")
        (self.rootfs / "bin").mkdir(parents=True)
        shutil.copy(busybox(), self.rootfs / "bin" / "busybox")
        for name in PROGRAMS:
            (self.rootfs / "bin" / name).symlink_to("busybox")
        _add(self.rootfs, Path("/usr/bin/flock"))
        subprocess.run(["runc", "spec"], cwd=self.bundle, check=True)
        config = json.loads((self.bundle / "config.json").read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = ["/bin/busybox", "sh", "-c", f"exec >> /output; {script}"]
        if python:
            config["process"]["args"] = ["/usr/bin/python3", "-c", python]
            config["mounts"] += [_bound("/usr"), _bound("/lib"), _bound("/lib64"), _bound(folder)]
        config["root"]["readonly"] = False
        config["linux"]["namespaces"] = [
            one for one in config["linux"]["namespaces"] if one["type"] != "network"
        ]
        (self.bundle / "config.json").write_text(json.dumps(config))

    def __call__(self, *words: str) -> None:
        command: list[str | Path] = [self.runtime, "--root", self.root, "--log", self.log]
        done = subprocess.run(
            [*command, "--log-format", "json", *words, self.id],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": CRIU_PATH},
        )
        assert done.returncode == 0, self.log.read_text()

    def start(self) -> None:
        """As the shim does it, when the engine is asked for a start."""
        self.started_at = uuid4().hex
        self("create", "--bundle", str(self.bundle), "--pid-file", str(self.pid_file))
        self("start")

    async def pause(self, *, leave_running: bool = False, layer: Path | None = None) -> None:
        """As the manager does it; the shim cleans up when the process is gone."""
        pid = int(self.pid_file.read_text())
        making = self.checkpoint.begin()
        log = CriuLog()
        try:
            await dump(
                Work(ABSENT, ABSENT, self.id, pid=pid, folders=(making.path,)),
                making,
                log,
                search_path=CRIU_PATH,
                layer=layer or self.rootfs,
                leave_running=leave_running,
                hangs_after_s=TIMEOUT_S,
            )
        except CheckpointError as error:
            raise CheckpointError(error.brief, details="\n".join(log.errors())) from error
        finally:
            log.close()
        if not leave_running:
            making.note_pause(self.started_at)
        self.checkpoint.publish()
        if not leave_running:
            until(lambda: not Path(f"/proc/{pid}/exe").exists())
            self("delete", "--force")

    async def resume(self) -> None:
        self.put_back = await put_back(self.checkpoint, self.rootfs, self.started_at)
        await give_order(self.id, self.checkpoint, CRIU_PATH)
        self.start()

    def end(self) -> None:
        """As a crash of its process would, and the shim after it."""
        pid = int(self.pid_file.read_text())
        self("delete", "--force")
        until(lambda: not Path(f"/proc/{pid}/exe").exists())

    def lines(self) -> list[str]:
        output = self.rootfs / "output"
        return output.read_text().splitlines() if output.exists() else []

    def counted(self) -> tuple[str, int]:
        secret, _, number = self.lines()[-1].rpartition(" ") if self.lines() else ("", "", "0")
        return secret, int(number)


def _bound(path: Path | str) -> dict[str, object]:
    """A folder of the host at the same place in the container."""
    return {
        "destination": str(path),
        "type": "bind",
        "source": str(path),
        "options": ["rbind", "ro"],
    }


def _add(rootfs: Path, program: Path) -> None:
    """A program of this machine, with its libraries."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in (program, *(Path(word) for word in told.split() if word.startswith("/"))):
        (rootfs / path.parent.relative_to("/")).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, rootfs / path.relative_to("/"))


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Callable[[str], Container]]:
    """Starts one that runs a script."""
    runtime = tmp_path / "warmboot-runtime"
    await install_runtime(runtime)
    made: list[Container] = []

    def start(script: str = COUNTER, python: str = "") -> Container:
        made.append(Container(runtime, tmp_path / f"c{len(made)}", script, python))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        clear(one.checkpoint.restore_work)
        one("delete", "--force")
        withdraw(one.id)
        assert not (ROOT / one.id).exists()


async def test_a_start_on_an_order_goes_on_from_the_images(
    started: Callable[..., Container],
) -> None:
    container = started()
    until(lambda: container.counted()[1] > 3)
    await container.pause()
    secret, before = container.counted()
    await container.resume()
    until(lambda: container.counted()[1] > before)
    assert container.counted()[0] == secret
    assert container.lines()[before] == f"{secret} {before + 1}"


async def test_the_files_of_an_older_checkpoint_come_back_with_its_memory(
    started: Callable[..., Container],
) -> None:
    container = started(f"echo early > /state; {COUNTER}")
    until(lambda: container.counted()[1] > 1)
    await container.pause(leave_running=True)
    kept = (container.checkpoint.files / "output").read_text().splitlines()
    until(lambda: container.counted()[1] > len(kept) + 3)
    (container.rootfs / "state").write_text("late")
    (container.rootfs / "new").touch()
    container.end()
    await container.resume()
    until(lambda: container.counted()[1] > len(kept) + 3)
    numbers = [int(line.rpartition(" ")[2]) for line in container.lines()]
    assert numbers == list(range(1, len(numbers) + 1)), "no line is lost or there twice"
    assert container.lines()[: len(kept)] == kept
    assert (container.rootfs / "state").read_text() == "early\n"
    assert not (container.rootfs / "new").exists()
    assert [path.name for path in container.bundle.iterdir() if "warmboot" in path.name] == []


async def test_files_are_copied_back_only_if_they_can_have_changed(
    started: Callable[..., Container],
) -> None:
    container = started()
    until(lambda: container.counted()[1] > 1)
    await container.pause()
    await container.resume()
    assert not container.put_back
    container.end()
    await container.resume()
    assert container.put_back


async def test_a_dump_whose_files_cannot_be_kept_fails_and_the_container_runs_on(
    started: Callable[..., Container],
) -> None:
    container = started()
    until(lambda: container.counted()[1] > 1)
    with pytest.raises(CheckpointError) as caught:
        await container.pause(layer=container.rootfs / "gone")
    assert "keep-files exited" in caught.value.details
    until(lambda: container.counted()[1] > 4)


async def test_only_root_can_give_an_order(started: Callable[..., Container]) -> None:
    container = started()
    await give_order(container.id, container.checkpoint, CRIU_PATH)
    for path in (container.runtime, ROOT / container.id, *(ROOT / container.id).iterdir()):
        status = path.stat()
        assert (status.st_uid, status.st_mode & 0o022) == (0, 0), path
    assert (ROOT / container.id).stat().st_mode & 0o777 == 0o700


async def test_a_container_goes_on_beside_its_checkpoint(
    started: Callable[..., Container],
) -> None:
    container = started()
    until(lambda: container.counted()[1] > 1)
    await container.pause(leave_running=True)
    _, before = container.counted()
    until(lambda: container.counted()[1] > before + 2)
    assert len(read_dump(container.checkpoint.memory).processes) >= 1


@pytest.mark.parametrize(
    ("script", "check"),
    [
        (
            "exec 9> /lock; /usr/bin/flock 9 && {ready}",
            "/usr/bin/flock -n -E 3 /lock /bin/true; [ $? = 3 ] && echo kept",
        ),
        ("exec 9> /gone; echo kept >&9; rm /gone; {ready}", "cat /proc/self/fd/9"),
        (
            "exec 9> /big; dd if=/dev/zero bs=1M count=3 >&9; rm /big; {ready}",
            "[ $(wc -c < /proc/self/fd/9) = 3145728 ] && echo kept",
        ),
        ("exec 9> /a; echo kept >&9; ln /a /b; rm /a; {ready}", "cat /proc/self/fd/9; cat /b"),
    ],
    ids=["a lock", "a deleted file", "a large deleted file", "a file under another name"],
)
@pytest.mark.parametrize("leave_running", [False, True], ids=["pause", "checkpoint"])
async def test_what_needs_options_of_criu_is_kept(
    started: Callable[..., Container], script: str, check: str, leave_running: bool
) -> None:
    ready = f"echo ready; until [ -e /go ]; do sleep 0.1; done; {check}; echo end; sleep 1000"
    container = started(script.format(ready=ready))
    until(lambda: "ready" in container.lines())
    await container.pause(leave_running=leave_running)
    if leave_running:
        container.end()
    await container.resume()
    (container.rootfs / "go").touch()
    until(lambda: "end" in container.lines())
    assert set(container.lines()) == {"ready", "kept", "end"}
    assert [path.name for path in container.rootfs.iterdir() if "link_remap" in path.name] == []


IO_URING = """
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
ring = libc.syscall(425, 8, ctypes.create_string_buffer(256))
open("/output", "w").write("ready" if ring >= 0 else "none")
time.sleep(1000)
"""
OUTSIDE = """
import socket, time
outside = socket.socket(socket.AF_UNIX)
outside.connect("{}")
open("/output", "w").write("ready")
time.sleep(1000)
"""


async def test_a_connection_to_a_socket_outside_is_named_and_the_container_runs_on(
    started: Callable[..., Container], tmp_path: Path
) -> None:
    (tmp_path / "c0").mkdir()
    path = tmp_path / "c0" / "outside"
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(str(path))
        outside.listen()
        container = started(python=OUTSIDE.format(path))
        with outside.accept()[0]:
            until(lambda: container.lines() == ["ready"])
            await refused(container, "(Unix socket) to a program outside")


async def test_a_process_with_an_io_uring_is_found(started: Callable[..., Container]) -> None:
    container = started(python=IO_URING)
    until(lambda: bool(container.lines()))
    if container.lines() == ["none"]:
        pytest.skip("this kernel gives no io_uring")
    pid = int(container.pid_file.read_text())
    assert io_uring_users(pid) == {pid: "python3"}
    assert io_uring_users(os.getpid()) == {}


async def refused(container: Container, reason: str) -> None:
    pid = int(container.pid_file.read_text())
    with pytest.raises(CheckpointError) as caught:
        await container.pause()
    error = dump_failure("c", "it runs", caught.value.details.splitlines(), caught.value)
    assert isinstance(error, CheckpointRefused), caught.value.details
    assert reason in error.details
    until(lambda: _state(pid) in ("R", "S"))  # neither stopped nor frozen


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


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
    until(lambda: container.counted()[1] > 1)
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
    until(lambda: container.counted()[1] > before + 2)
    numbers = [int(line.rpartition(" ")[2]) for line in container.lines()]
    assert numbers == list(range(1, len(numbers) + 1))


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
    until(lambda: container.counted()[1] > 1)
    await container.pause()
    secret, before = container.counted()
    script = _killer(tmp_path, action, victim)
    monkeypatch.setattr(resuming, "OPTIONS", (*dumping.OPTIONS, f"action-script {script}"))
    with contextlib.suppress(AssertionError):
        await container.resume()
    assert (tmp_path / "killed").exists()
    end_members(container.id)
    container("delete", "--force")
    kept = len(container.lines())
    monkeypatch.undo()
    await container.resume()
    until(lambda: len(container.lines()) > kept + 1)
    assert container.lines()[kept].rpartition(" ")[0] == secret
    assert int(container.lines()[kept].rpartition(" ")[2]) in (before, before + 1)

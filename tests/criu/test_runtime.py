"""The runtime of workers with real runc and CRIU, called as an engine's shim calls it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.eventually import until_blocking
from tests.support.images import COUNTER
from tests.support.runtime_container import CRIU_PATH, Container

from warmboot.criu.images import read_dump
from warmboot.criu.kerndat.cache import keep_kerndat
from warmboot.criu.refusals import dump_failure
from warmboot.criu.runtime.dump import DUMP_LOG
from warmboot.criu.runtime.orders import ROOT
from warmboot.criu.runtime.resume import RESTORE_LOG, give_order
from warmboot.criu.unpausable import io_uring_users
from warmboot.model.errors import CheckpointError, CheckpointRefused

RUNC_CONF = Path("/etc/criu/runc.conf")
pytestmark = [pytest.mark.docker, pytest.mark.root]


async def test_a_start_on_an_order_goes_on_from_the_images(
    started: Callable[..., Container],
) -> None:
    await keep_kerndat(CRIU_PATH)
    container = started()
    until_blocking(lambda: container.counted()[1] > 3)
    await container.pause()
    secret, before = container.counted()
    await container.resume()
    logs = (container.checkpoint.path / DUMP_LOG, container.checkpoint.restore_work / RESTORE_LOG)
    for log in logs:
        assert "Loaded kdat cache" in log.read_text(), "CRIU has asked the kernel for all anew"
    assert "criu.kdat" not in Path("/proc/self/mountinfo").read_text()
    until_blocking(lambda: container.counted()[1] > before)
    assert container.counted()[0] == secret
    assert container.lines()[before] == f"{secret} {before + 1}"


async def test_the_files_of_an_older_checkpoint_come_back_with_its_memory(
    started: Callable[..., Container],
) -> None:
    container = started(f"echo early > /state; {COUNTER}")
    until_blocking(lambda: container.counted()[1] > 1)
    await container.pause(leave_running=True)
    kept = (container.checkpoint.files / "output").read_text().splitlines()
    until_blocking(lambda: container.counted()[1] > len(kept) + 3)
    (container.rootfs / "state").write_text("late")
    (container.rootfs / "new").touch()
    container.end()
    await container.resume()
    until_blocking(lambda: container.counted()[1] > len(kept) + 3)
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
    until_blocking(lambda: container.counted()[1] > 1)
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
    until_blocking(lambda: container.counted()[1] > 1)
    with pytest.raises(CheckpointError) as caught:
        await container.pause(layer=container.rootfs / "gone")
    assert "keep-files exited" in caught.value.details
    until_blocking(lambda: container.counted()[1] > 4)


async def test_only_root_can_give_an_order(started: Callable[..., Container]) -> None:
    container = started()
    await give_order(container.id, container.checkpoint, CRIU_PATH)
    for path in (container.runtime, ROOT / container.id, *(ROOT / container.id).iterdir()):
        status = path.stat()
        assert (status.st_uid, status.st_mode & 0o022) == (0, 0), path
    assert (ROOT / container.id).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("leave_running", [False, True], ids=["pause", "checkpoint"])
async def test_criu_finds_the_container_frozen_and_does_not_wait_for_it(
    started: Callable[..., Container], leave_running: bool
) -> None:
    if not Path("/sys/fs/cgroup/freezer").is_dir():
        pytest.skip("cgroups of version 2: frozen by CRIU")
    container = started()
    until_blocking(lambda: container.counted()[1] > 1)
    await container.pause(leave_running=leave_running)
    said = (container.checkpoint.path / "dump.log").read_text()
    assert "freezer.state=FROZEN" in said
    assert "freezer.state=FREEZING" not in said
    if leave_running:
        _, before = container.counted()
        until_blocking(lambda: container.counted()[1] > before)


async def test_a_container_goes_on_beside_its_checkpoint(
    started: Callable[..., Container],
) -> None:
    container = started()
    until_blocking(lambda: container.counted()[1] > 1)
    await container.pause(leave_running=True)
    _, before = container.counted()
    until_blocking(lambda: container.counted()[1] > before + 2)
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
        (
            "(true & exec sleep 1000) & until grep -q '^State:.Z' /proc/[0-9]*/status; do :; done; "
            "{ready}",
            "grep -q '^State:.Z' /proc/[0-9]*/status && echo kept",
        ),
    ],
    ids=["a lock", "a deleted file", "a large deleted file", "a file's other name", "a zombie"],
)
@pytest.mark.parametrize("leave_running", [False, True], ids=["pause", "checkpoint"])
async def test_what_is_hard_to_save_is_kept(
    started: Callable[..., Container], script: str, check: str, leave_running: bool
) -> None:
    ready = f"echo ready; until [ -e /go ]; do sleep 0.1; done; {check}; echo end; sleep 1000"
    container = started(script.format(ready=ready))
    until_blocking(lambda: "ready" in container.lines())
    await container.pause(leave_running=leave_running)
    if leave_running:
        container.end()
    await container.resume()
    (container.rootfs / "go").touch()
    until_blocking(lambda: "end" in container.lines())
    assert set(container.lines()) == {"ready", "kept", "end"}
    assert [path.name for path in container.rootfs.iterdir() if "link_remap" in path.name] == []


async def test_what_the_hosts_runc_conf_says_does_not_matter(
    started: Callable[..., Container],
) -> None:
    kept = RUNC_CONF.read_bytes() if RUNC_CONF.exists() else None
    container = started("exec 9> /big; dd if=/dev/zero bs=1M count=3 >&9; rm /big; sleep 1000")
    until_blocking(lambda: not (container.rootfs / "big").exists())
    RUNC_CONF.parent.mkdir(exist_ok=True)
    RUNC_CONF.write_text("tcp-established\nghost-limit 1\n")
    try:
        await container.pause()
        await container.resume()
    finally:
        RUNC_CONF.unlink() if kept is None else RUNC_CONF.write_bytes(kept)


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
            until_blocking(lambda: container.lines() == ["ready"])
            await refused(container, "(Unix socket) to a program outside")


async def test_a_process_with_an_io_uring_is_found(started: Callable[..., Container]) -> None:
    container = started(python=IO_URING)
    until_blocking(lambda: bool(container.lines()))
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
    until_blocking(lambda: _state(pid) in ("R", "S"))  # neither stopped nor frozen


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

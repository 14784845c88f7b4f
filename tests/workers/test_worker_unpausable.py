"""What CRIU cannot put into a checkpoint: the pause is refused, and the worker runs on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.workers.conftest import last_count, lines, of_host, start_on, wait_for_line

from warmboot.client import Client
from warmboot.criu.setup.findings import can_save_other_users
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import CheckpointRefused, Conflict
from warmboot.model.sessions import ExecSpec

pytestmark = [pytest.mark.docker, pytest.mark.root]

COUNTS = """
import time
for number in range(1000000):
    print("counted" if held >= 0 else "none", number, flush=True)
    time.sleep(0.05)
"""
IO_URING = """
import ctypes
held = ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(256))
"""
OUTSIDE = """
import socket
outside = socket.socket(socket.AF_UNIX)
outside.connect("/outside/socket")
held = outside.fileno()
"""
OTHER_USER = """
import os
os.setuid(65534)
held = 0
"""
TRACED = """
import ctypes, os
if (held := os.fork()) == 0:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)  # PTRACE_TRACEME
    os.kill(os.getpid(), 19)
os.waitpid(held, os.WUNTRACED)
"""
FIRST_THREAD_ENDS = """
import ctypes, threading
held = 0
if threading.current_thread() is threading.main_thread():
    program = open("/proc/self/cmdline").read().split("\\0")[2]
    threading.Thread(target=exec, args=(program, {})).start()
    ctypes.CDLL(None).pthread_exit(None)
"""
BACKLOG = """
import socket
listening = socket.create_server(("127.0.0.1", 0))
waits = socket.create_connection(listening.getsockname())
held = waits.fileno()
"""
WATCH = """
import ctypes, os
libc = ctypes.CDLL(None)
def watch(path):
    held = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(held, path.encode(), 0x100) > 0  # IN_CREATE
    return held
"""
WATCHES_LAYER = f"""{WATCH}
os.mkdir("/watched")
held = watch("/watched")
"""
WATCHES_OTHERS = f"""{WATCH}
import select
watches = {{watch(path): path for path in ("/", "/dev/shm", "/data")}}
print("ready", flush=True)
while True:
    for held in select.select(list(watches), [], [])[0]:
        if os.read(held, 4096):
            print("seen in", watches[held], flush=True)
"""


@pytest.fixture(scope="module")
async def dockerd(runtime_dockerd: PrivateDockerd) -> PrivateDockerd:
    return runtime_dockerd


REFUSED = {
    "io_uring": (IO_URING, "CRIU cannot save io_uring", "python3"),
    "outside": (OUTSIDE, "a connection (Unix socket) to a program outside", "sk-unix"),
    "inotify": (WATCHES_LAYER, "watches files (inotify, fanotify)", "fsnotify"),
    "traced": (TRACED, "a debugger or tracer is attached", "traced by"),
    "first thread": (FIRST_THREAD_ENDS, "the first thread", "others go on"),
    "backlog": (BACKLOG, "has not accepted", "In-flight connection"),
}
if not can_save_other_users():
    REFUSED["user"] = (OTHER_USER, "processes that are not root's", "Can't get rlimit")


@pytest.mark.parametrize(("script", "reason", "said"), REFUSED.values(), ids=REFUSED)
async def test_the_pause_is_refused_with_a_reason_and_the_worker_runs_on(
    client: Client, engine: DockerEngine, tmp_path: Path, script: str, reason: str, said: str
) -> None:
    (tmp_path / "outside").mkdir()
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(str(tmp_path / "outside" / "socket"))
        outside.listen()
        mounted = {"source": str(tmp_path / "outside"), "target": "/outside"}
        worker = await start_on(
            client,
            engine,
            command=["/usr/bin/python3", "-c", f"{script}{COUNTS}"],
            mounts=[*of_host(), mounted],
        )
        accepted = outside.accept()[0] if script == OUTSIDE else None
        first = await wait_for_line(client, worker.id, lambda line: line.endswith(" 3"))
        if first.startswith("none") and script == IO_URING:
            pytest.skip("this kernel, or Docker's seccomp profile, gives none")
        with pytest.raises(CheckpointRefused) as caught:
            await client.workers.pause(worker.id)
        assert "keeps running" in caught.value.brief
        with pytest.raises(Conflict, match="is running"):
            await client.workers.resume(worker.id)
        assert reason in caught.value.details
        assert said in caught.value.details, "CRIU's own line, if it was asked"
        assert caught.value.resolution
        assert (await client.workers.get(worker.id)).state == "running"
        _, before = await last_count(client, worker.id)
        await wait_for_line(client, worker.id, lambda line: line == f"counted {before + 5}")
        if accepted is not None:
            accepted.close()


async def test_watches_that_criu_can_find_again_see_what_happens_after_the_resume(
    client: Client, engine: DockerEngine, tmp_path: Path
) -> None:
    """Of the container's root, its own tmpfs and a mount; what is not found is refused above."""
    mount = {"source": str(tmp_path), "target": "/data"}
    worker = await start_on(
        client,
        engine,
        command=["/usr/bin/python3", "-c", WATCHES_OTHERS],
        mounts=[*of_host(), mount],
    )
    await wait_for_line(client, worker.id, lambda line: line == "ready")
    await client.workers.pause(worker.id)
    assert not [line for line in await lines(client, worker.id) if line.startswith("seen")]
    await client.workers.resume(worker.id)
    for folder in ("/", "/dev/shm", "/data"):
        path = f"{folder.rstrip('/')}/made"
        made = await engine.exec(
            worker.docker_id or "", ExecSpec(("/bin/busybox", "sh", "-c", f": > {path}"))
        )
        assert [chunk async for chunk in made] == []
        await made.close()
        await wait_for_line(client, worker.id, f"seen in {folder}".__eq__)

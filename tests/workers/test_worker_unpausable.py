"""What CRIU cannot put into a checkpoint: the pause is refused, and the worker runs on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.workers.conftest import last_count, of_host, start_on, wait_for_line

from warmboot.client import Client
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import CheckpointRefused

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


@pytest.fixture(scope="module")
async def dockerd(runtime_dockerd: PrivateDockerd) -> PrivateDockerd:
    return runtime_dockerd


@pytest.mark.parametrize(
    ("script", "reason", "said"),
    [
        (IO_URING, "CRIU cannot save io_uring", "python3"),
        (OUTSIDE, "a connection (Unix socket) to a program outside", "sk-unix"),
    ],
    ids=["io_uring", "outside"],
)
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
        assert reason in caught.value.details
        assert said in caught.value.details, "CRIU's own line"
        assert caught.value.resolution
        assert (await client.workers.get(worker.id)).state == "running"
        _, before = await last_count(client, worker.id)
        await wait_for_line(client, worker.id, lambda line: line == f"counted {before + 5}")
        if accepted is not None:
            accepted.close()

"""Whether a process is the one that was looked at before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.eventually import until_blocking

from warmboot.criu.continuity import has_ended, look_at, tracer_of
from warmboot.criu.runtime_work import end_without_first_thread
from warmboot.criu.unpausable import refuse_traced, refuse_without_first_thread
from warmboot.docker.facts import ContainerFacts
from warmboot.model.errors import CheckpointRefused
from warmboot.system import procfs

LOOKS = 2000


@pytest.fixture
def executing(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing but execute a program: without memory for a moment each time."""
    program = tmp_path / "again"
    program.write_text('#!/bin/sh\nexec "$0"\n')
    program.chmod(0o755)
    with subprocess.Popen([program]) as process:
        yield process
        process.kill()


def test_a_process_that_executes_a_program_is_not_taken_as_ended(
    executing: subprocess.Popen[bytes],
) -> None:
    assert sum(look_at(executing.pid) is None for _ in range(LOOKS)) == 0


def test_a_process_that_has_ended_is_seen_as_that(executing: subprocess.Popen[bytes]) -> None:
    executing.kill()
    executing.wait()
    assert look_at(executing.pid) is None


FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""
TRACES = """
import ctypes, os, sys
if (pid := os.fork()) == 0:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)  # PTRACE_TRACEME
    os.kill(os.getpid(), 19)
os.waitpid(pid, os.WUNTRACED)
print(pid, flush=True)
sys.stdin.read()
os.kill(pid, 9)
"""


def container(pid: int) -> ContainerFacts:
    return ContainerFacts(
        *("a" * 64, "worker", "running"), True, pid, 0, "busybox", "", "bridge", False, False, ""
    )


def test_a_process_whose_first_thread_has_ended_goes_on_and_is_refused() -> None:
    with subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS]) as process:
        try:
            until_blocking(lambda: procfs.stat_fields(Path(f"/proc/{process.pid}"))[0] == "Z")
            assert not has_ended(process.pid)
            with pytest.raises(CheckpointRefused, match="keeps running") as caught:
                refuse_without_first_thread(container(process.pid))
            assert f"process {process.pid} (" in caught.value.details
            assert caught.value.resolution
            assert end_without_first_thread(process.pid)
            until_blocking(lambda: has_ended(process.pid), "nobody has waited for it yet")
            assert not end_without_first_thread(process.pid)
        finally:
            process.kill()
    refuse_without_first_thread(container(process.pid))


def test_a_process_that_is_traced_is_refused_with_its_tracer() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TRACES], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        traced = int(process.stdout.readline())
        assert tracer_of(traced) == process.pid
        with pytest.raises(CheckpointRefused, match="keeps running") as caught:
            refuse_traced(container(process.pid))
        assert f"process {traced} (" in caught.value.details
        assert f"traced by {process.pid}, " in caught.value.details
        assert process.stdin is not None
        process.stdin.close()
    refuse_traced(container(process.pid))

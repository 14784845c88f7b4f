"""Whether a process is the one that was looked at before."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmboot.criu.continuity import look_at

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

"""A worker with a stopped process is refused up front: that is a conflict, and no failure."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmboot.criu.unpausable import refuse_stopped
from warmboot.docker.facts import ContainerFacts, EngineFacts
from warmboot.model.errors import Conflict


@pytest.fixture
def stopped() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            yield process.pid
        finally:
            process.kill()


def engine(cgroups: str) -> EngineFacts:
    return EngineFacts("27", "1.44", True, "6.18", "x86_64", Path("/"), cgroups, "", (), ())


def container(pid: int) -> ContainerFacts:
    return ContainerFacts(
        *("a" * 64, "worker", "running"), True, pid, 0, "busybox", "", "bridge", False, False, ""
    )


def test_it_is_a_conflict_that_names_the_process(stopped: int) -> None:
    with pytest.raises(Conflict) as told:
        refuse_stopped(engine("1"), container(stopped))
    assert f"{stopped} (sleep)" in told.value.details
    assert "kill -CONT" in told.value.resolution


def test_version_2_of_cgroups_does_not_mind(stopped: int) -> None:
    refuse_stopped(engine("2"), container(stopped))

"""The process that simulated VMs are forked from."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.support.simulated import booted

from warmboot.host.vm.leftovers import users_of
from warmboot.hypervisors.process import Forked
from warmboot.hypervisors.simulated import driver
from warmboot.hypervisors.simulated.fork_server import FORK_SERVER, ForkServer
from warmboot.model.errors import HypervisorError
from warmboot.model.vm import VmStatus


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.end()


async def test_a_vm_is_a_process_of_its_own_that_names_its_folder(tmp_path: Path) -> None:
    async with booted(tmp_path) as one, booted(tmp_path) as other:
        assert users_of(one.handle.run_dir) == [one.handle.pid]
        os.kill(one.handle.pid, signal.SIGKILL)
        await one.wait_gone()
        assert await other.status() is VmStatus.RUNNING


async def test_vms_outlive_the_server_and_the_next_one_has_another(tmp_path: Path) -> None:
    async with booted(tmp_path) as one:
        os.kill(FORK_SERVER._pid, signal.SIGKILL)
        async with booted(tmp_path) as other:
            assert await other.status() is VmStatus.RUNNING
        assert await one.status() is VmStatus.RUNNING


def test_one_of_a_process_that_this_one_was_forked_from_is_left_alone() -> None:
    ours, its = ForkServer(), ForkServer()
    connected = ours._start()
    try:
        its._connected, its._pid = connected.dup(), ours._pid  # as after a fork
        its.forget()
        its.end()
        assert os.waitpid(ours._pid, os.WNOHANG) == (0, 0)
    finally:
        ours.end()


async def test_a_vm_whose_driver_is_killed_before_it_begins_does_not_begin(
    tmp_path: Path, server: ForkServer
) -> None:
    ended, held = os.pipe()
    os.set_inheritable(held, True)  # by the server and its forks
    connected = await asyncio.to_thread(server._start)
    os.close(held)
    os.kill(server._pid, signal.SIGSTOP)
    order = {"arguments": ["--run-dir", str(tmp_path)], "log": str(tmp_path / "log")}
    connected.send(json.dumps(order).encode())
    connected.close()
    os.kill(server._pid, signal.SIGCONT)
    assert await asyncio.to_thread(os.read, ended, 1) == b""
    os.close(ended)
    assert not (tmp_path / "log").exists()


async def test_a_vm_that_ends_before_it_has_a_log_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork(arguments: Sequence[str], log: Path) -> Forked:
        pid = os.posix_spawnp("true", ["true"], {})
        return Forked(pid, 0, os.pidfd_open(pid))

    monkeypatch.setattr(FORK_SERVER, "fork", fork)
    monkeypatch.setattr(driver, "NEWS_GRACE_S", 0)
    with pytest.raises(HypervisorError, match="ended at once"):
        async with booted(tmp_path):
            pass


async def test_a_server_that_does_not_answer_is_ended_and_told(
    tmp_path: Path, server: ForkServer
) -> None:
    connected = await asyncio.to_thread(server._start)
    connected.settimeout(0.05)
    os.kill(server._pid, signal.SIGSTOP)
    with pytest.raises(HypervisorError, match="no process could be forked"):
        await asyncio.to_thread(server.fork, [], tmp_path / "log")
    assert server._pid == 0

"""A process may call itself anything: it is looked at like any other."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from warmboot.api.middleware import peers
from warmboot.criu import activity, continuity, runtime_work
from warmboot.host.network.ports import holders
from warmboot.hypervisors import process
from warmboot.model.container import PortMapping
from warmboot.system import procfs

NAME = b"\xff\x0bUid:\t0\t0\t0\t0"
"""Not UTF-8; and after a vertical tab, a line of ``/proc/PID/status`` as root has it."""
ARGUMENT = b"caf\xe9"


@pytest.fixture
def named(tmp_path: Path) -> Iterator[int]:
    """A process with that name, which holds a port, and says so."""
    program = os.fsencode(tmp_path) + b"/" + NAME
    Path(os.fsdecode(program)).symlink_to(sys.executable)
    code = "import sys; print(flush=True); sys.stdin.read()"
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        child = subprocess.Popen(
            [program, "-c", code, ARGUMENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(server.fileno(),),
        )
    with child:
        assert child.stdout and child.stdout.readline() == b"\n"
        yield child.pid
        child.kill()


def test_it_is_read(named: int) -> None:
    folder = Path(f"/proc/{named}")

    assert procfs.arguments(folder)[-1] == os.fsdecode(ARGUMENT)
    assert procfs.name(folder) == "\ufffd?Uid:?0?0?0?0"
    assert procfs.stat_fields(folder)[1] == str(os.getpid())


def test_it_is_a_process_of_ours_like_any_other(named: int) -> None:
    assert process.start_time_ticks(named)
    assert not process.is_stopped(named)


def test_a_worker_with_such_a_process_is_looked_at(named: int) -> None:
    assert activity.cpu_seconds(named) >= 0
    assert activity.listening(named)
    assert continuity.look_at(named) is not None
    assert continuity.inner_pid(named) == named
    assert continuity.memory_bytes(named) > 0


def test_a_connection_to_a_port_of_a_worker_s_is_seen(tmp_path: Path) -> None:
    accepts = (
        "import sys, socket; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); c = s.accept()[0]; print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", accepts], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        assert not activity.has_connection(process.pid, (port,))
        with socket.create_connection(("127.0.0.1", port)) as connection:
            process.stdout.readline()
            assert activity.has_connection(process.pid, (port,))
            assert not activity.has_connection(process.pid, (connection.getsockname()[1],))
        process.kill()


def test_one_that_is_stopped_is_named(named: int) -> None:
    os.kill(named, signal.SIGSTOP)
    os.waitid(os.P_PID, named, os.WSTOPPED | os.WNOWAIT)

    assert runtime_work.stopped_in("none", named) == {named: "\ufffd?Uid:?0?0?0?0"}


def test_the_holder_of_a_port_is_named(named: int) -> None:
    (where,) = activity.listening(named)

    told = holders.of_port(PortMapping(host_port=where.port, container_port=80))

    assert told == f"\ufffd?Uid:?0?0?0?0 (process {named})"


async def test_its_name_does_not_make_it_roots(named: int) -> None:
    status = await asyncio.to_thread(Path(f"/proc/{named}/status").read_bytes)
    another = status.replace(f"\nUid:\t{os.getuid()}".encode(), b"\nUid:\t1234")

    assert 1234 in peers._uids(another.decode(errors="replace"))


def test_files_that_come_and_go_hide_no_other_of_a_process(tmp_path: Path) -> None:
    folder = tmp_path / "fd"
    folder.mkdir()
    (folder / "7").symlink_to("socket:[17]")
    for number in range(10, 30):
        (folder / str(number)).touch()  # no link: as little to be read as one that was closed

    assert list(procfs.open_files(tmp_path)) == [("7", "socket:[17]")]

"""The Unix socket: its own from the first moment, nobody else's taken, nothing left."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from warmboot.api.http.listeners import gid_of, listeners
from warmboot.model.errors import Conflict, InvalidRequest, WarmbootError
from warmboot.settings import Settings


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: a socket's path has 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="wb-l-", dir="/tmp") as made:
        yield Path(made)


def listening(
    path: Path, port: int = 0, group: str = ""
) -> AbstractContextManager[list[socket.socket]]:
    return listeners("127.0.0.1", port, lambda _: path, group)


def mode_and_group(path: Path) -> tuple[int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_gid


def test_without_a_group_the_socket_is_its_owner_s_alone(folder: Path) -> None:
    with listening(folder / "m.sock"):
        assert mode_and_group(folder / "m.sock")[0] == 0o600


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_with_a_group_it_is_the_group_s_too(folder: Path) -> None:
    with listening(folder / "m.sock", group="54321"):
        assert mode_and_group(folder / "m.sock") == (0o660, 54321)


def test_a_group_that_is_named_must_exist_the_usual_one_need_not() -> None:
    with pytest.raises(InvalidRequest, match="no group no-such") as told:
        gid_of("no-such")
    assert "groupadd --system no-such" in told.value.resolution
    assert gid_of("") is None
    assert gid_of("54321") == 54321


def test_nothing_is_left_of_it(folder: Path) -> None:
    with listening(folder / "deeper" / "m.sock"):
        assert (folder / "deeper" / "m.sock").is_socket()
    assert list((folder / "deeper").iterdir()) == []


def test_a_live_one_is_not_taken(folder: Path) -> None:
    with listening(folder / "m.sock"):
        inode = (folder / "m.sock").stat().st_ino
        with pytest.raises(Conflict, match="in use"), listening(folder / "m.sock"):
            pass
        assert (folder / "m.sock").stat().st_ino == inode


def test_that_of_another_program_is_not_taken(folder: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(folder / "m.sock"))
        other.listen()
        with pytest.raises(Conflict, match="in use"), listening(folder / "m.sock"):
            pass
    assert (folder / "m.sock").is_socket()


def test_a_file_is_not_taken(folder: Path) -> None:
    (folder / "m.sock").write_text("precious")
    with pytest.raises(InvalidRequest, match="not a socket"), listening(folder / "m.sock"):
        pass
    assert (folder / "m.sock").read_text() == "precious"


def test_what_a_killed_manager_left_is_replaced(folder: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from warmboot.api.http.listeners import listeners
with listeners("127.0.0.1", 0, lambda _: Path(sys.argv[1]), "") as sockets:
    sockets[-1].listen()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = folder / "m.sock"
    killed = subprocess.run(
        [sys.executable, "-c", script, str(path)], check=False, capture_output=True, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert path.is_socket()
    left = path.stat().st_ino
    with listening(path) as sockets:
        sockets[-1].listen()
        assert path.stat().st_ino != left
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(path))
    assert list(folder.iterdir()) == []


def test_a_port_that_is_taken_is_told_at_once_and_nothing_is_left(folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(Conflict, match="cannot listen") as told:
            listening(folder / "m.sock", port).__enter__()
    assert "MANAGER_PORT" in told.value.resolution
    assert list(folder.iterdir()) == []


def test_a_path_that_is_too_long_is_refused(folder: Path) -> None:
    with pytest.raises(WarmbootError, match="too long") as told:
        listening(folder / ("x" * 120)).__enter__()
    assert "MANAGER_SOCKET" in told.value.resolution


def test_each_manager_of_a_host_has_a_path_of_its_own(folder: Path) -> None:
    managers = [
        Settings(storage_root=folder / "a", port=18080),
        Settings(storage_root=folder / "b", port=18081),
        Settings(storage_root=folder / "c", port=18080, host="127.0.0.2"),
    ]
    assert len({one.socket_at(one.port) for one in managers}) == 3
    assert Settings(socket=folder / "own").socket_at(1) == folder / "own"

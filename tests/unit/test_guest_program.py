"""What the agent is made of, and the parts that no connection reaches."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from warmboot import guest
from warmboot.guest.splice import splice
from warmboot.guest.system import LinuxSystem

_FOLDER = Path(guest.__file__).parent
_NOT_IN_PYTHON3_MINIMAL = {"asyncio", "ctypes", "hmac", "http", "secrets", "tarfile", "uuid"}


def test_the_agent_runs_on_its_own_with_a_minimal_library(tmp_path: Path) -> None:
    (tmp_path / "guest").symlink_to(_FOLDER)
    script = "import guest.__main__, sys, json; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-S", "-E", "-B", "-c", script],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout
    loaded = {name.partition(".")[0] for name in json.loads(output)}
    assert "warmboot" not in loaded
    assert loaded & _NOT_IN_PYTHON3_MINIMAL == set()


def test_files_are_written_in_place(tmp_path: Path) -> None:
    system = LinuxSystem()
    target = tmp_path / "machine-id"
    target.write_text("a much longer old content than the new one, to be cut off\n" * 2)
    inode = target.stat().st_ino
    system.write_file(str(target), "short\n")
    assert system.read_file(str(target)) == "short\n"
    assert target.stat().st_ino == inode


def test_a_file_that_was_not_there_has_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    system, target = LinuxSystem(), tmp_path / "token"
    system.write_file(str(target), "secret", 0o600)
    assert target.stat().st_mode & 0o777 == 0o600
    for _ in range(2):  # idempotent
        system.remove_file(str(target))
    assert not target.exists()


def test_a_program_is_run_to_its_end(tmp_path: Path) -> None:
    done = tmp_path / "done"
    assert LinuxSystem().run(["sh", "-c", f"touch {done}; exit 3"]) == 3
    assert done.exists()


def test_a_process_that_is_just_starting_is_not_told_to_read_its_configuration_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append((pid, number)))
    system, pid_file = LinuxSystem(), tmp_path / "docker.pid"
    system.hang_up(str(pid_file))
    pid_file.touch()  # it has opened it, and not yet written
    system.hang_up(str(pid_file))
    assert told == []
    pid_file.write_text("42\n")
    system.hang_up(str(pid_file))
    assert told == [(42, signal.SIGHUP)]


def test_the_guests_localhost_is_listened_on_there_alone() -> None:
    with LinuxSystem().listen(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.root
def test_entropy_is_taken_by_the_kernel() -> None:
    if os.geteuid() != 0:
        pytest.fail("run the tests that are marked root as root")
    LinuxSystem().add_entropy(os.urandom(64))


def test_a_splice_keeps_memory_bounded_when_one_side_does_not_read() -> None:
    a, client = socket.socketpair()
    b, server = socket.socketpair()
    thread = threading.Thread(target=splice, args=(a, b))
    thread.start()
    client.settimeout(0.3)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 64 << 20:
            sent += client.send(b"x" * 65536)
    assert sent < 8 << 20
    received = 0
    server.settimeout(60)
    client.shutdown(socket.SHUT_WR)
    while chunk := server.recv(1 << 20):
        received += len(chunk)
    server.close()
    thread.join(60)
    assert received == sent
    assert not thread.is_alive()
    for sock in (a, b, client):
        sock.close()


def test_a_splice_ends_without_spinning_when_both_sides_close() -> None:
    a, client = socket.socketpair()
    b, server = socket.socketpair()
    thread = threading.Thread(target=splice, args=(a, b))
    thread.start()
    client.close()
    server.close()
    thread.join(60)
    assert not thread.is_alive()
    a.close()
    b.close()

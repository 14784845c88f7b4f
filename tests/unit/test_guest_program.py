"""What the agent is made of, and the parts that no connection reaches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from warmboot import guest
from warmboot.guest.splice import splice
from warmboot.guest.system import System

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


def test_identity_files_are_written_in_place(tmp_path: Path) -> None:
    system = System(tmp_path)
    target = tmp_path / "machine-id"
    target.write_text("a much longer old content than the new one, to be cut off\n" * 2)
    inode = target.stat().st_ino
    system.set_machine_id("f" * 32)
    assert target.read_text() == "f" * 32 + "\n"
    assert target.stat().st_ino == inode


@pytest.mark.root
def test_entropy_is_taken_by_the_kernel() -> None:
    if os.geteuid() != 0:
        pytest.fail("run the tests that are marked root as root")
    System().add_entropy(os.urandom(64))


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
    server.settimeout(10)
    client.shutdown(socket.SHUT_WR)
    while chunk := server.recv(1 << 20):
        received += len(chunk)
    server.close()
    thread.join(10)
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
    thread.join(10)
    assert not thread.is_alive()
    a.close()
    b.close()

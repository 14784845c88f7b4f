"""The processes of ``warmboot engine run``: what reaches its command, and what is left of that."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from typing import IO

import pytest

from warmboot.cli.commands.engine import supervise

LIMIT_S = 60
NOT_AT_ONCE_S = 2 * supervise.TOGETHER_S
"""After that, the same signal is another one: what comes at once is one."""

RUN = """
import asyncio, os, sys
from warmboot.cli.commands.engine.run import _run
sys.exit(asyncio.run(_run(sys.argv[1:], dict(os.environ))))
"""

OF_A_TERMINAL = """
import os
os.close(os.open(os.ttyname(0), os.O_RDWR))  # the first one of a session's leader controls it
"""

SHORT_GRACE = """
import socket, sys
from warmboot.cli.commands.engine import supervise
supervise.GRACE_S = 0.2
sys.exit(supervise.Supervisor(socket.socket(fileno=int(sys.argv[1]))).run(sys.argv[2:]))
"""

COUNTS = """
import signal, sys
got = []
def told(number, frame):
    got.append(number)
    print("got", number, flush=True)
    if got.count(signal.SIGTERM) == 2:
        print("INT:", got.count(signal.SIGINT), flush=True)
        sys.exit(5)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, told)
print("ready", flush=True)
while True:
    signal.pause()
"""

LEAVES = "setsid sleep 1000 & (sleep 1000 &); echo ready; {}"
"""One in a session of its own, and one whose parent has ended."""


def until_nobody_has_it(output: IO[bytes]) -> bytes:
    """What is still written, when all that could write there have ended."""
    written = b""
    while True:
        ready, _, _ = select.select([output], [], [], LIMIT_S)
        assert ready, f"something lives on: {written!r}"
        if not (more := os.read(output.fileno(), 4096)):
            return written
        written += more


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda one: one.name)
def test_nothing_of_the_command_lives_on_when_warmboot_is_ended(number: signal.Signals) -> None:
    words = [sys.executable, "-c", RUN, "sh", "-c", LEAVES.format("wait")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        until_nobody_has_it(process.stdout)
        assert process.wait(LIMIT_S) == (-number if number is signal.SIGKILL else 128 + number)


def test_what_does_not_end_by_itself_is_killed() -> None:
    ours, far_end = socket.socketpair()
    number = str(far_end.fileno())
    stubborn = "trap '' TERM; echo ready; while :; do sleep 1000; done"
    words = [sys.executable, "-c", SHORT_GRACE, number, "sh", "-c", stubborn]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, pass_fds=[far_end.fileno()], start_new_session=True
    ) as process:
        far_end.close()
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        ours.close()
        until_nobody_has_it(process.stdout)
        assert process.wait(LIMIT_S) == 128 + signal.SIGKILL


def test_what_a_command_leaves_behind_when_it_ends_by_itself_is_left_alone() -> None:
    words = [sys.executable, "-c", RUN, "sh", "-c", "sleep 1000 >&- & echo $!"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        left = int(process.stdout.readline())
        try:
            until_nobody_has_it(process.stdout)
            assert process.wait(LIMIT_S) == 0
        finally:
            os.kill(left, signal.SIGKILL)  # fails if it is not there


def test_a_key_of_the_terminal_reaches_the_command_once() -> None:
    """It is sent to the whole job of the shell: to warmboot as well."""
    master, slave = pty.openpty()
    words = [sys.executable, "-c", OF_A_TERMINAL + RUN, sys.executable, "-c", COUNTS]
    with subprocess.Popen(
        words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    ) as process:
        os.close(slave)
        try:
            until_shown(master, "ready")
            process.send_signal(signal.SIGSTOP)  # or two of them may be taken for one
            os.write(master, b"\x03")
            until_shown(master, f"got {signal.SIGINT:d}")
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            until_shown(master, f"got {signal.SIGTERM:d}")
            time.sleep(NOT_AT_ONCE_S)
            process.send_signal(signal.SIGTERM)  # passed on after what was passed on before
            until_shown(master, "INT: 1")
            assert process.wait(LIMIT_S) == 5
        finally:
            os.close(master)  # its session is hung up


def until_shown(output: int, text: str) -> None:
    shown = ""
    while text not in shown:
        ready, _, _ = select.select([output], [], [], LIMIT_S)
        more = os.read(output, 4096).decode() if ready else ""
        assert more, f"{text!r}, but there is {shown!r}"
        shown += more


def test_what_timeout_sends_twice_at_once_reaches_the_command_once() -> None:
    ours, far_end = socket.socketpair()
    words = [
        sys.executable,
        supervise.__file__,
        str(far_end.fileno()),
        sys.executable,
        "-c",
        COUNTS,
    ]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, pass_fds=[far_end.fileno()], start_new_session=True
    ) as process:
        far_end.close()
        assert process.stdout is not None
        output = process.stdout.fileno()
        until_shown(output, "ready")
        ours.send(bytes([signal.SIGTERM, signal.SIGTERM]))
        until_shown(output, f"got {signal.SIGTERM:d}")
        ours.send(bytes([signal.SIGINT]))
        until_shown(output, f"got {signal.SIGINT:d}")
        time.sleep(NOT_AT_ONCE_S)
        ours.send(bytes([signal.SIGTERM]))
        until_shown(output, "INT: 1")
        assert process.wait(LIMIT_S) == 5
        ours.close()

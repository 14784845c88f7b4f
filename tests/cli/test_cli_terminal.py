"""Interactive sessions on a real pseudo-terminal: raw while they last, restored afterwards."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest
from tests.cli.conftest import WARMBOOT, Cli, Served
from tests.support.eventually import until_blocking

from warmboot.manager.protocols import Check

pytestmark = pytest.mark.slow  # the command line in a process, each time


class Terminal:
    """A pty with a shell-like setting, and one program on it."""

    def __init__(self, env: dict[str, str]) -> None:
        self.master, self.slave = pty.openpty()
        self.env = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
        self.resize(30, 80, tell=False)
        self.before = termios.tcgetattr(self.slave)
        self.process: subprocess.Popen[bytes] | None = None
        self.seen = ""

    def start(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [*WARMBOOT, *words],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=self.env,
            start_new_session=True,
        )

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell and self.process is not None:
            self.process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        """Read until ``text`` was shown; what came before it is forgotten."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{text!r} was not shown, but {self.seen!r}"
            if select.select([self.master], [], [], left_s)[0]:
                self.seen += os.read(self.master, 65_536).decode()
        self.seen = self.seen.partition(text)[2]

    def drain(self) -> str:
        while select.select([self.master], [], [], 0.2)[0]:
            self.seen += os.read(self.master, 65_536).decode()
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.seen)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(60)

    def until_the_end(self, *words: str) -> str:
        """All that a program shows, without colours."""
        self.start(*words)
        assert self.process is not None
        while self.process.poll() is None:
            self.drain()
        return self.drain().replace("\r\n", "\n")

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    @property
    def is_restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(env: dict[str, str]) -> Iterator[Terminal]:
    opened = Terminal(env)
    yield opened
    opened.close()


def test_run_it_is_a_terminal_and_leaves_it_as_it_was(terminal: Terminal, served: Served) -> None:
    terminal.start("run", "-it", "--rm", "busybox", "sh")
    terminal.wait_for("$ ")
    assert terminal.is_raw
    terminal.type("size\r")
    terminal.wait_for("(30, 80)")
    terminal.resize(40, 100)
    terminal.wait_for("$ ")
    session = served.fakes.containers.sessions[0]
    until_blocking(lambda: session.size == (40, 100), "the new size arrives")
    terminal.type("exit 5\r")
    assert terminal.wait() == 5
    assert terminal.is_restored
    assert served.fakes.containers.rows == {}


def test_exec_it_passes_control_keys_on(cli: Cli, terminal: Terminal) -> None:
    cli("run", "-d", "--name", "c", "busybox")
    terminal.start("exec", "-it", "c", "sh")
    terminal.wait_for("$ ")
    terminal.type("a\x03b\x1a")
    terminal.wait_for("a\x03b\x1a")
    terminal.type("\x04")
    assert terminal.wait() == 0
    assert terminal.is_restored


def test_the_detach_keys_leave_it_running(terminal: Terminal, served: Served) -> None:
    terminal.start("run", "-it", "--name", "c", "busybox", "sh")
    terminal.wait_for("$ ")
    terminal.type("\x10x")
    terminal.wait_for("\x10x")
    terminal.type("\x10\x11")
    assert terminal.wait() == 0
    assert terminal.is_restored
    (container,) = served.fakes.containers.rows.values()
    assert container.state == "running"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_run_it_ends_the_container_and_restores_the_terminal(
    terminal: Terminal, served: Served, number: signal.Signals
) -> None:
    terminal.start("run", "-it", "--rm", "busybox", "sh")
    terminal.wait_for("$ ")
    assert terminal.is_raw
    assert terminal.process is not None
    terminal.process.send_signal(number)
    assert terminal.wait() == 128 + number
    assert terminal.is_restored
    assert served.fakes.containers.signals == [number.name]
    assert served.fakes.containers.rows == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(
    cli: Cli, terminal: Terminal, number: signal.Signals
) -> None:
    cli("run", "-d", "--name", "c", "busybox")
    terminal.start("exec", "-it", "c", "sh")
    terminal.wait_for("$ ")
    assert terminal.is_raw
    assert terminal.process is not None
    terminal.process.send_signal(number)
    assert terminal.wait() == 143
    assert terminal.is_restored


def test_a_lost_manager_restores_the_terminal(cli: Cli, terminal: Terminal, served: Served) -> None:
    cli("run", "-d", "--name", "c", "busybox")
    terminal.start("exec", "-it", "c", "sh")
    terminal.wait_for("$ ")
    served.stop()
    assert terminal.wait() == 1
    assert terminal.is_restored
    assert "cut off" in terminal.drain()


def test_an_interrupt_while_it_boots_removes_what_was_begun(
    terminal: Terminal, served: Served
) -> None:
    served.fakes.containers.stage_s = 60
    terminal.start("run", "-it", "--rm", "busybox", "sh")
    terminal.wait_for("restoring a VM from its snapshot")
    assert terminal.process is not None
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.wait() == 130
    assert terminal.is_restored
    assert served.fakes.containers.rows == {}


def test_tables_fit_eighty_columns(cli: Cli, terminal: Terminal) -> None:
    image = "localhost:5000/a/very/long/team/name/of-an-image:1.27.3-alpine-slim"
    cli("run", "-d", "--name", "a-rather-long-name-for-a-container", "-p", "8080:80", image)
    terminal.start("ps")
    assert terminal.wait() == 0
    lines = terminal.drain().splitlines()
    assert len(lines) == 2
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert "a-rather-long-name-for-a-container" in lines[1]
    assert "…" in lines[1]


def test_no_trunc_cuts_nothing_however_narrow_the_terminal(terminal: Terminal, cli: Cli) -> None:
    name = "a-name-that-is-long-enough-to-need-all-of-the-room-there-is"
    id_ = cli("run", "-d", "--name", name, "registry.example.net:5000/team/app:1").stdout.strip()
    shown = terminal.until_the_end("ps", "--no-trunc")
    assert id_ in shown
    assert name in shown
    assert "registry.example.net:5000/team/app:1" in shown
    assert "…" not in shown


def test_what_doctor_says_stays_in_its_column(terminal: Terminal, served: Served) -> None:
    long = Check("engine", False, "it does not answer " * 9, why="a " * 60)
    served.fakes.system.checks = (*served.fakes.system.checks, long)
    for line in terminal.until_the_end("doctor").splitlines()[:-2]:
        assert len(line) <= 80
        assert re.match(r"(ok  |note|FAIL) \S|\s{9}", line), f"{line!r} begins in another column"

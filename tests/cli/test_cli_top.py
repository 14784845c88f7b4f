"""``warmboot top`` on a pipe and on a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest
from tests.cli.conftest import Cli, Served
from tests.cli.test_cli_terminal import Terminal

from warmboot.cli.terminal.top_view import _rooms

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def screen(env: dict[str, str]) -> Iterator[Terminal]:
    made = Terminal({**env, "TERM": "xterm"})
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    os.close(made.master)
    os.close(made.slave)


def end_of(screen: Terminal) -> int:
    """Its exit code; what it still writes is read, or it would wait for us."""
    assert screen.process is not None
    deadline = time.monotonic() + 60
    while screen.process.poll() is None:
        assert time.monotonic() < deadline, "it does not end"
        if select.select([screen.master], [], [], 0.05)[0]:
            screen.seen += os.read(screen.master, 65_536).decode()
    return screen.process.returncode


def test_into_a_pipe_one_look_is_printed(cli: Cli) -> None:
    name = "a-name-that-is-longer-than-its-column-on-a-terminal"
    assert cli("run", "-d", "--name", name, "busybox").returncode == 0
    shown = cli("top")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("warmboot 0.1.0 on simulated 1.0 (none)")
    (row,) = [line for line in lines if line.startswith(name)]
    assert "running" in row
    assert "100 MiB" in row
    assert "40 MiB" in row


def test_without_anything_it_says_so(cli: Cli) -> None:
    assert "no containers, no snapshots, no workers" in cli("top", "--once").stdout


def test_json_has_what_each_container_uses(cli: Cli) -> None:
    cli("run", "-d", "--name", "web", "busybox")
    shown = json.loads(cli("top", "--json").stdout)
    (container,) = shown["containers"]
    assert container["name"] == "web"
    assert container["memory_bytes"] == 100 << 20
    assert container["cpu_percent"] > 0
    assert set(shown) == {"info", "usage", "containers", "snapshots", "workers"}


def test_options_that_make_no_sense_are_refused(cli: Cli) -> None:
    assert cli("top", "--interval", "0").returncode == 2
    assert cli("top", "--window", "nothing").returncode == 2


def test_without_a_manager_it_says_so_and_fails(cli: Cli) -> None:
    shown = cli("top", WARMBOOT_URL="http://127.0.0.1:9")
    assert shown.returncode == 1
    assert shown.stderr.startswith("error:")


def test_on_a_terminal_it_fits_80_columns_and_q_gives_it_back(cli: Cli, screen: Terminal) -> None:
    for number in range(3):
        name = f"container-with-a-name-that-is-far-too-long-{number}"
        cli("run", "-d", "--name", name, "busybox")
    screen.start("top")
    screen.wait_for("CONTAINER")
    screen.wait_for("…")
    screen.type("q")
    assert end_of(screen) == 0
    assert termios.tcgetattr(screen.slave) == screen.before
    for line in _CONTROL.sub("", screen.seen).splitlines():
        assert len(line) <= 80, line


def test_what_happens_is_shown_at_once(cli: Cli, screen: Terminal) -> None:
    screen.start("top", "--interval", "3600")
    screen.wait_for("no containers")
    cli("run", "-d", "--name", "newcomer", "busybox")
    screen.wait_for("newcomer")
    screen.type("q")
    assert end_of(screen) == 0


def test_a_manager_that_goes_away_is_told_and_waited_for(
    served: Served, cli: Cli, screen: Terminal
) -> None:
    cli("run", "-d", "--name", "web", "busybox")
    screen.start("top", "--interval", "0.2")
    screen.wait_for("web")
    served.stop()
    screen.wait_for("what is shown is old")
    screen.wait_for("web")
    screen.type("q")
    assert end_of(screen) == 0


def test_interrupted_it_gives_the_terminal_back(screen: Terminal) -> None:
    screen.start("top")
    screen.wait_for("boots in 5 min")
    assert screen.process is not None
    screen.process.send_signal(2)
    assert end_of(screen) == 130
    assert termios.tcgetattr(screen.slave) == screen.before


def test_stats_show_who_runs_now_until_they_are_interrupted(cli: Cli, screen: Terminal) -> None:
    cli("run", "-d", "--name", "web", "busybox")
    screen.start("stats")
    screen.wait_for("web")
    cli("run", "-d", "--name", "next", "busybox")
    screen.wait_for("next")
    assert screen.process is not None
    screen.process.send_signal(2)
    assert end_of(screen) == 130


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [
        ([3, 2, 1], 10, [3, 2, 1]),
        ([9, 2, 1], 6, [3, 2, 1]),
        ([9, 9, 9], 3, [1, 1, 1]),
        ([9, 9], 0, [0, 0]),
        ([5], -3, [0]),
        ([], 5, []),
    ],
)
def test_rows_are_shared_out_so_that_small_tables_are_whole(
    wanted: list[int], room: int, given: list[int]
) -> None:
    assert _rooms(wanted, room) == given


def test_help_tells_of_it() -> None:
    import sys

    shown = subprocess.run(
        [sys.executable, "-m", "warmboot.cli", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert re.search(r"\btop\b.*live", shown.stdout)

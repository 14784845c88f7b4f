"""``warmboot stats``."""

from __future__ import annotations

import json

from tests.cli.conftest import Cli


def test_those_that_run_are_shown_as_docker_shows_them(cli: Cli) -> None:
    for name in ("one", "two"):
        cli("run", "-d", "--name", name, "-m", "512m", "busybox")
    cli("run", "--name", "over", "busybox", "echo")
    head, *rows = cli("stats", "--no-stream").stdout.splitlines()
    titles = "CONTAINER ID  NAME  CPU %  MEM USAGE / LIMIT  MEM %  NET I/O  BLOCK I/O  PIDS"
    assert head.split() == titles.split()
    assert {row.split()[1] for row in rows} == {"one", "two"}
    assert "8MiB / 512MiB" in rows[0]
    assert "1.56%" in rows[0]
    assert "1.5kB / 700B" in rows[0]
    assert "4.1kB / 8.19kB" in rows[0]


def test_those_that_do_not_run_have_dashes(cli: Cli) -> None:
    cli("run", "-d", "--name", "up", "busybox")
    cli("run", "--name", "over", "busybox", "echo")
    cli("create", "--name", "new", "busybox")
    template = "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}"
    lines = cli("stats", "--no-stream", "-a", "--format", template).stdout.splitlines()
    assert {"over -- -- / -- --", "new -- -- / -- --"} < set(lines)
    assert len(lines) == 3
    lines = cli("stats", "--no-stream", "--format", template, "over").stdout.splitlines()
    assert lines == ["over -- -- / -- --"]


def test_programs_read_numbers(cli: Cli) -> None:
    cli("run", "-d", "--name", "up", "busybox")
    (found,) = json.loads(cli("stats", "--no-stream", "--json", "up").stdout)
    assert (found["name"], found["stats"]["memory_bytes"]) == ("up", 8 << 20)
    shown = json.loads(cli("stats", "--no-stream", "--format", "json", "up").stdout)
    assert shown["MemUsage"].startswith("8MiB / ")


def test_who_is_named_and_not_there_is_told(cli: Cli) -> None:
    done = cli("stats", "--no-stream", "nobody")
    assert done.returncode == 1
    assert "nobody" in done.stderr
    assert cli("stats", "--no-stream", "--format", "{{.Nothing}}").returncode == 0
    cli("run", "-d", "--name", "up", "busybox")
    assert cli("stats", "--no-stream", "--format", "{{.Nothing}}").returncode == 2

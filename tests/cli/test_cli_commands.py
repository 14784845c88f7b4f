"""Each command, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from tests.cli.conftest import WARMBOOT, Cli, Served

from warmboot.api.routing import MAX_PAGE
from warmboot.cli import completion
from warmboot.model.container import ContainerState
from warmboot.model.errors import DiskFull
from warmboot.model.journal.event import Event


def test_no_manager_says_how_to_start_one(cli: Cli) -> None:
    done = cli("ps", WARMBOOT_URL="http://127.0.0.1:1")
    assert done.returncode == 1
    assert "error: no manager answers at http://127.0.0.1:1" in done.stderr
    assert "warmboot serve" in done.stderr


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "http://[",
        "http://:80",
        "unix:/run/x",
        "foo",
    ],
)
def test_what_is_no_address_of_a_manager_is_told(cli: Cli, address: str) -> None:
    done = cli("ps", WARMBOOT_URL=address)
    assert done.returncode == 1
    assert f"error: '{address}' is not the address of a manager" in done.stderr
    assert "unix:///" in done.stderr


def test_ps_lists_what_runs_and_with_a_all(cli: Cli) -> None:
    cli("run", "-d", "--name", "going", "-p", "8080:80", "redis:7")
    cli("run", "--name", "ended", "busybox", "exit", "3")
    running = cli("ps").stdout
    assert "going" in running
    assert "ended" not in running
    lines = cli("ps", "-a").stdout.splitlines()
    assert lines[0].split("  ")[0] == "CONTAINER ID"
    assert "Exited (3)" in lines[1]
    assert "8080->80" in lines[2]
    assert " warm " in lines[2]
    items = json.loads(cli("ps", "-a", "--json").stdout)
    assert [item["name"] for item in items] == ["ended", "going"]
    assert cli("ps", "-aq").stdout.split() == [item["id"] for item in items]


def test_one_that_stands_still_is_shown_as_such(cli: Cli, served: Served) -> None:
    cli("run", "-d", "--name", "full", "redis:7")
    rows = served.fakes.containers.rows
    (container,) = rows.values()
    error = DiskFull("the disk is full", resolution="free some space")
    rows[container.id] = replace(container, error=error.as_dict())
    assert " (Stalled)" in cli("ps").stdout
    assert re.search("what next +free some space", cli("inspect", "full").stdout)
    (row,) = [line for line in cli("top").stdout.splitlines() if line.startswith("full")]
    assert row.split()[1] == "stalled"


def test_inspect_tells_how_it_was_booted(cli: Cli) -> None:
    cli("run", "-d", "--cold", "--name", "c", "redis:7")
    text = cli("inspect", "c").stdout
    assert "boot          cold, Docker answered after 0.50 s" in text
    assert "cold because  A cold boot was asked for" in text
    assert "identity 0.01 s (clock 0.1 ms), docker" in text
    assert json.loads(cli("inspect", "c", "--json").stdout)[0]["name"] == "c"


def test_logs_follow_tail_and_times(cli: Cli, served: Served) -> None:
    cli("run", "--name", "c", "busybox", "ticks", "3")
    assert cli("logs", "c").stdout == "tick 0\ntick 1\ntick 2\n"
    assert cli("logs", "-n", "1", "c").stdout == "tick 2\n"
    assert cli("logs", "-ft", "c").stdout.count("2026-01-24T") == 3
    assert cli("logs", "--tail", "some", "c").returncode == 2
    assert cli("logs", "--since", "some", "c").returncode == 2
    cli("logs", "--since", "2026-01-24T12:00:00Z", "--until", "1769256000.5", "c")
    first, last = served.fakes.containers.asked_times
    assert first == datetime(2026, 1, 24, 12, tzinfo=UTC)
    assert last == datetime(2026, 1, 24, 12, 0, 0, 500_000, tzinfo=UTC)
    cli("logs", "--since", "1h30m", "c")
    (since, _) = served.fakes.containers.asked_times
    assert since is not None
    assert 5395 < (datetime.now(UTC) - since).total_seconds() < 5460
    unknown = cli("logs", "nothing")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "warmboot ps -a" in unknown.stderr


def test_ps_is_filtered(cli: Cli) -> None:
    cli("run", "-d", "--name", "web-1", "-l", "team=x", "-l", "env=test", "-p", "80:80", "redis:7")
    cli("run", "-d", "--name", "web-2", "-l", "team=y", "busybox")
    cli("run", "--name", "ended", "busybox", "exit", "3")

    def names(*words: str) -> list[str]:
        done = cli("ps", "--json", *words)
        assert done.returncode == 0, done.stderr
        return [item["name"] for item in json.loads(done.stdout)]

    assert names("-f", "name=web") == ["web-2", "web-1"]
    assert names("-f", "name=web-1", "-f", "name=web-2") == ["web-2", "web-1"]
    for exactly in ("^web-1$", "^/web-1$", "b-1", "web-[1]", "^/w.b-1"):
        assert names("-f", f"name={exactly}") == ["web-1"]
    assert names("-f", "name=^web$") == []
    assert names("-f", "label=team=x") == ["web-1"]
    assert names("-f", "label=team", "-f", "label=env=test") == ["web-1"]
    assert names("-f", "ancestor=redis:7") == ["web-1"]
    for busybox in ("busybox", "busybox:latest", "docker.io/library/busybox"):
        assert names("-f", f"ancestor={busybox}") == ["web-2"]
    for port in ("80", "80/tcp", "79-81", "79-81/tcp"):
        assert names("-f", f"publish={port}") == ["web-1"]
    assert names("-f", "publish=80/udp") == []
    assert names("-f", "status=exited") == ["ended"]
    assert names("-a", "-f", "exited=3") == ["ended"]
    assert names("-f", "exited=3") == []
    assert names("-n", "2") == ["ended", "web-2"]
    assert names("-l") == ["ended"]
    (whole,) = json.loads(cli("ps", "--json", "-f", "name=web-1").stdout)
    assert whole["id"] in cli("ps", "--no-trunc").stdout
    assert whole["id"] not in cli("ps").stdout


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("name", "write id=…, name=…"),
        ("colour=red", "write id=…, name=…"),
        ("status=lost", "'lost' is not a state; use one of created, creating"),
        ("name=[", "name=[: this is not a regular expression"),
        ("exited=abc", "exited=abc: an exit code is a number from 0 to 255"),
        ("exited=256", "exited=256: an exit code is a number from 0 to 255"),
        ("publish=abc", "publish=abc: write a port from 1 to 65535"),
        ("publish=70000", "publish=70000: write a port from 1 to 65535"),
        ("publish=90-80", "publish=90-80: write a port from 1 to 65535"),
        ("publish=80/sctp", "publish=80/sctp: write a port from 1 to 65535"),
    ],
)
def test_a_filter_that_can_match_nothing_is_refused(cli: Cli, wrong: str, sentence: str) -> None:
    done = cli("ps", "-f", wrong, COLUMNS="200")
    assert done.returncode == 2
    assert sentence in done.stderr


def test_ports_are_shown_as_docker_shows_them(cli: Cli) -> None:
    cli("run", "-d", "--name", "c", "-p", "8080:80", "-p", "0.0.0.0:53:53/udp", "redis:7")
    assert cli("port", "c").stdout == "80/tcp -> 127.0.0.1:8080\n53/udp -> 0.0.0.0:53\n"
    assert cli("port", "c", "80").stdout == "127.0.0.1:8080\n"
    assert cli("port", "c", "53/udp").stdout == "0.0.0.0:53\n"
    assert cli("port", "c", "53").returncode == 1


def test_kill_sends_a_signal(cli: Cli, served: Served) -> None:
    cli("run", "-d", "--name", "c", "busybox")
    assert cli("kill", "-s", "usr1", "c").stdout == "c\n"
    assert served.fakes.containers.signals == ["SIGUSR1"]
    assert cli("kill", "c").returncode == 1
    assert cli("kill", "-s", "NONE", "c").returncode == 2


def test_exec_begins_a_command_and_goes(cli: Cli, served: Served, tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("A=1\n")
    cli("run", "-d", "--name", "c", "busybox")
    done = cli("exec", "-d", "--env-file", str(env_file), "-u", "me", "-w", "/", "c", "exit", "3")
    assert (done.stdout, done.returncode) == ("", 0)
    (spec,) = served.fakes.containers.execs
    assert (spec.detach, spec.environment, spec.user) == (True, ("A=1",), "me")


def test_exec_runs_passes_input_and_gives_back_the_code(cli: Cli) -> None:
    cli("run", "-d", "--name", "c", "busybox")
    assert cli("exec", "-e", "A=1", "c", "echo", "hi").stdout == "A=1\nhi\n"
    assert cli("exec", "c", "exit", "3").returncode == 3
    assert cli("exec", "-i", "c", "cat", stdin="in").stdout == "in"
    cli("stop", "c")
    refused = cli("exec", "c", "true")
    assert refused.returncode == 1
    assert "warmboot start c" in refused.stderr


def test_stop_start_restart_wait_and_rm(cli: Cli) -> None:
    cli("run", "-d", "--name", "c", "busybox")
    assert cli("stop", "-t", "1", "c").stdout == "c\n"
    assert cli("wait", "c").stdout == "143\n"
    assert cli("start", "c").stdout == "c\n"
    assert cli("restart", "c").stdout == "c\n"
    assert cli("wait", "--until", "running", "c").stdout == "running\n"
    timed_out = cli("wait", "--timeout", "0.1", "c")
    assert (timed_out.stdout, timed_out.returncode) == ("running\n", 1)
    refused = cli("rm", "c")
    assert refused.returncode == 1
    assert "warmboot stop c" in refused.stderr
    missing = cli("rm", "nothing", "c")
    assert (missing.stdout, missing.returncode) == ("", 1)
    both = cli("rm", "-fv", "nothing", "c")
    assert (both.stdout, both.stderr, both.returncode) == ("c\n", "", 0)


def test_ps_says_why_a_container_has_failed(cli: Cli) -> None:
    cli("run", "-d", "--keep", "--name", "c", "missing:1")
    listed = cli("ps", "-a").stdout
    assert "Failed: the image missing:1 does not exist" in listed
    assert "Failed: " not in cli("inspect", "c").stdout, "which has a line of its own for it"


def its_vm_dies(served: Served, name: str, image: str) -> None:
    """The container has failed, and a start boots it; ``missing:1`` cannot be booted."""
    rows = served.fakes.containers.rows
    (container,) = (row for row in rows.values() if row.name == name)
    spec = replace(container.spec, image=image)
    rows[container.id] = replace(container, spec=spec, state=ContainerState.FAILED)


@pytest.mark.parametrize("command", ["start", "restart"])
def test_a_start_ends_when_it_is_decided_and_says_why_it_failed(
    cli: Cli, served: Served, command: str
) -> None:
    cli("run", "-d", "--name", "c", "busybox")
    its_vm_dies(served, "c", "missing:1")
    cli("run", "-d", "--name", "good", "busybox")
    cli("stop", "good")
    served.fakes.containers.stage_s = 0.1
    done = cli(command, "c", "good")
    assert (done.stdout, done.returncode) == ("good\n", 1)
    assert done.stderr.splitlines() == [
        "error: the image missing:1 does not exist",
        "  why: the registry answered: manifest unknown",
        " next: check the name and the tag",
    ]


def test_a_start_that_boots_ends_when_it_runs(cli: Cli, served: Served) -> None:
    fakes = served.fakes.containers
    cli("run", "-d", "--name", "c", "busybox")
    its_vm_dies(served, "c", "busybox")
    fakes.stage_s = 0.3
    done = cli("start", "c")
    assert (done.stdout, done.stderr, done.returncode) == ("c\n", "", 0)
    assert [row.state for row in fakes.rows.values()] == [ContainerState.RUNNING]


def test_events_are_listed_and_followed(cli: Cli, env: dict[str, str]) -> None:
    cli("run", "--name", "c", "busybox", "exit", "0")
    listed = cli("events", "--no-follow").stdout
    assert "container.exited name=c exit_code=0" in listed
    first = json.loads(cli("events", "--no-follow", "--json").stdout.splitlines()[0])
    assert first["kind"] == "container.creating"
    following = subprocess.Popen(
        [*WARMBOOT, "events", "--after", "0"], env=env, stdout=subprocess.PIPE, text=True
    )
    with following:
        try:
            assert following.stdout is not None
            assert "container.creating" in following.stdout.readline()
            following.send_signal(signal.SIGINT)
            assert following.wait(60) == 130
        finally:
            following.kill()


def test_events_are_lines_and_not_documents(cli: Cli, served: Served) -> None:
    stages = [{"name": "restore", "seconds": 0.2}]
    served.fakes.events.all.append(
        Event(
            *(1, datetime.now(UTC), "container.booted", "c"),
            {"boot_method": "warm", "reason": None, "stages": stages, "shape": [2, 768]},
        )
    )
    (line,) = cli("events", "--no-follow").stdout.splitlines()
    assert line.endswith("c container.booted boot_method=warm shape=[2, 768]")
    assert "restore" in cli("events", "--no-follow", "--json").stdout


def test_help_is_quick_and_imports_nothing_slow() -> None:
    code = (
        "import sys, warmboot.cli.main; "
        "print([m for m in ('httpx', 'pydantic', 'fastapi', 'rich.table', 'websockets') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("images", "warmboot runtime ls"),
        ("pull", "warmboot run"),
        ("export", "warmboot cp"),
        ("system", "warmboot top"),
    ],
)
def test_docker_s_words_lead_to_ours(cli: Cli, word: str, advice: str) -> None:
    done = cli(word, "--all", "x")
    assert done.returncode == 2
    assert advice in " ".join(done.stderr.replace("│", " ").split())


def test_help_says_where_the_manager_is_looked_for(cli: Cli) -> None:
    told = " ".join(cli("--help").stdout.split())
    assert "the Unix socket of this machine's manager" in told
    assert "``" not in told + cli("attach", "--help").stdout


def test_every_command_has_its_help(cli: Cli) -> None:
    for words in (["run"], ["ps"], ["exec"], ["snapshot", "create"], ["runtime", "build"]):
        done = cli(*words, "--help")
        assert done.returncode == 0
        assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_container_names_are_completed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("run", "-d", "--name", "completed", "busybox")
    line = {"COMP_WORDS": "warmboot logs comp", "COMP_CWORD": "2"}
    monkeypatch.setattr(completion, "ANSWER_TIMEOUT_S", 60.0)
    done = cli(_WARMBOOT_COMPLETE="complete_bash", **line)
    assert done.stdout.strip() == "completed"
    down = cli(
        _WARMBOOT_COMPLETE="complete_bash",
        COMP_WORDS="warmboot logs comp",
        COMP_CWORD="2",
        WARMBOOT_URL="http://127.0.0.1:1",
    )
    assert down.stdout.strip() == ""


def test_names_beyond_a_part_of_a_list_are_completed(
    cli: Cli, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("run", "-d", "--name", "c", "busybox")
    rows = served.fakes.containers.rows
    (one,) = rows.values()
    for number in range(MAX_PAGE + 200):
        spec = replace(one.spec, name=f"c{number}")
        more = replace(one, id=uuid4(), spec=spec)
        rows[more.id] = more
    monkeypatch.setattr(completion, "ANSWER_TIMEOUT_S", 60.0)
    line = {"COMP_WORDS": "warmboot logs c", "COMP_CWORD": "2"}
    offered = cli(_WARMBOOT_COMPLETE="complete_bash", **line).stdout.split()
    assert {*offered} == {row.name for row in rows.values()}


def test_output_that_nobody_reads_is_no_error(env: dict[str, str], cli: Cli) -> None:
    cli("run", "--name", "c", "busybox", "ticks", "3")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*WARMBOOT, "logs", "c"], env=env, stdout=writer, stderr=subprocess.PIPE, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    os.close(writer)
    assert "Traceback" not in done.stderr


def test_a_template_says_what_is_shown(cli: Cli) -> None:
    cli("run", "-d", "--name", "web", "-l", "team=x", "img")
    assert cli("ps", "--format", "{{.Names}}: {{.State}} {{.Labels}}").stdout == (
        "web: running team=x\n"
    )
    assert cli("ps", "--format", r"table {{.Names}}\t{{.Boot}}").stdout.split() == [
        "NAMES", "BOOT", "web", "warm",
    ]  # fmt: skip
    assert json.loads(cli("ps", "--format", "json").stdout)["Names"] == "web"
    assert cli("inspect", "-f", "{{.name}} {{.Options.Init}} {{.ExitCode}}", "web").stdout == (
        "web false <no value>\n"
    )
    done = cli("inspect", "-f", "table {{.name}}", "web", COLUMNS="200")
    assert done.returncode == 2
    assert "a table is of `warmboot ps`" in done.stderr
    done = cli("inspect", "-f", "{{.name}}", "nobody", "web")
    assert (done.returncode, done.stdout) == (1, "web\n")
    assert "no container nobody" in done.stderr
    done = cli("inspect", "-f", "{{.nothing}}", "web", COLUMNS="200")
    assert done.returncode == 2
    assert "there is no field .nothing; there are: .id, .name" in done.stderr

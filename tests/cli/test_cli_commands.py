"""Each command, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.cli.conftest import WARMBOOT, Cli, Served

from warmboot.model.container import ContainerState
from warmboot.model.errors import CanaryFailed, DiskFull
from warmboot.model.journal.event import Event


def test_run_shows_the_output_and_exits_with_the_containers_code(cli: Cli) -> None:
    done = cli("run", "--name", "c", "busybox", "echo", "hi", "-x", "--name=not-ours")
    assert (done.stdout, done.stderr, done.returncode) == ("hi -x --name=not-ours\n", "", 0)
    assert cli("run", "busybox", "exit", "7").returncode == 7


def test_run_keeps_stdout_and_stderr_apart(cli: Cli) -> None:
    done = cli("run", "busybox", "err", "oh")
    assert (done.stdout, done.stderr) == ("", "oh\n")


def test_run_d_prints_the_id_alone(cli: Cli, served: Served) -> None:
    done = cli("run", "-d", "--name", "web", "-p", "8080:80", "-p", "0.0.0.0:53:53/udp", "redis:7")
    (container,) = served.fakes.containers.rows.values()
    assert done.stdout == f"{container.id}\n"
    assert done.stderr == ""
    assert [(p.host_ip, p.host_port, p.container_port, p.protocol) for p in container.ports] == [
        ("127.0.0.1", 8080, 80, "tcp"),
        ("0.0.0.0", 53, 53, "udp"),
    ]


def test_run_passes_on_all_it_was_given(cli: Cli, served: Served, tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("# comment\nFROM_FILE=1\nA=file\n\nHERE\n")
    done = cli(
        "run", "-d", "-e", "A=b=c", "-e", "HERE", "-e", "GONE", "--env-file", str(env_file),
        "--entrypoint", "/bin/x", "--cpus", "1.0", "-m", "512m", "--cold", "-it", "--rm",
        "-l", "team=x", "-u", "1000:1000", "-w", "/data", "-h", "box", "--stop-signal", "int",
        "--stop-timeout", "3", "img", HERE="here",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (container,) = served.fakes.containers.rows.values()
    spec = container.spec
    assert spec.environment == {"FROM_FILE": "1", "A": "b=c", "HERE": "here"}
    assert spec.entrypoint == ("/bin/x",)
    assert spec.command is None
    assert str(spec.shape) == "1 vCPU, 512 MiB"
    assert spec.boot == "cold"
    assert (spec.tty, spec.stdin_open, spec.auto_remove) == (True, True, True)
    assert spec.labels == {"team": "x"}
    assert (spec.user, spec.working_dir, spec.hostname) == ("1000:1000", "/data", "box")
    assert (spec.stop_signal, spec.stop_timeout_s) == ("SIGINT", 3)


def test_run_i_passes_on_standard_input(cli: Cli) -> None:
    done = cli("run", "-i", "--rm", "busybox", "cat", stdin="through the pipe")
    assert (done.stdout, done.returncode) == ("through the pipe", 0)


def test_run_rm_leaves_nothing(cli: Cli, served: Served) -> None:
    assert cli("run", "--rm", "busybox", "ticks", "3").stdout == "tick 0\ntick 1\ntick 2\n"
    assert served.fakes.containers.rows == {}


def test_run_uploads_an_archive_first(cli: Cli, served: Served, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"tar" * 1000)
    done = cli("run", "--archive", str(archive), "app:1", "echo", "ok")
    assert done.stdout == "ok\n"
    assert list(served.fakes.archives.kept.values()) == [b"tar" * 1000]
    missing = cli("run", "--archive", str(tmp_path / "no.tar"), "app:1")
    assert missing.returncode == 125
    assert "docker save" in missing.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cpus", "1.5"], "whole CPUs"),
        (["-m", "lots"], "512m or 1g"),
        (["-p", "70000"], "is no port"),
        (["-p", "1-5:1-5"], "ranges"),
        (["-p", "x:1:1"], "no IPv4 address"),
        (["-p", "[::1]:8080:80"], "on IPv4 addresses only"),
        (["-p", "::1:8080:80"], "on IPv4 addresses only"),
        (["-v", "/data:/data"], "no volumes"),
        (["--mount", "type=bind"], "no volumes"),
        (["-w", "data"], "no absolute path"),
        (["-h", "Not_A_Name"], "no host name"),
        (["--stop-signal", "NONE"], "is no signal"),
        (["--stop-timeout", "soon"], "parse string as an integer"),
        (["--no-such-option"], "No such option"),
        (["--env-file", "/nowhere"], "cannot be read"),
        (["--name", "a/b"], "is no valid name"),
        (["--runtime", "none"], "no runtime image"),
        (["-it"], "no terminal"),
    ],
)
def test_run_says_what_is_wrong_with_its_options(cli: Cli, words: list[str], said: str) -> None:
    done = cli("run", *words, "busybox")
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == 125
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--name", "a/b", "busybox"], "--name"),
        (["--memory", "100t", "busybox"], "--memory"),
        (["--cpus", "64", "busybox"], "--cpus"),
        (["--name", "c", "Bad Image"], "IMAGE"),
    ],
)
def test_what_the_manager_refuses_is_told_by_the_option_s_name(
    cli: Cli, words: list[str], option: str
) -> None:
    done = cli("run", "-d", *words)
    assert done.returncode == 125
    assert f"error: {option} is not valid" in done.stderr
    assert "openapi" not in done.stderr


def test_run_without_an_image_is_our_failure_too(cli: Cli) -> None:
    assert cli("run").returncode == 125
    assert cli("ps", "--no-such-option").returncode == 2


def test_h_is_the_host_name_of_run_and_help_elsewhere(cli: Cli, served: Served) -> None:
    cli("run", "-d", "-h", "box", "busybox")
    (container,) = served.fakes.containers.rows.values()
    assert container.spec.hostname == "box"
    assert cli("ps", "-h").stdout.strip().startswith("Usage: warmboot ps")


def test_what_never_ran_leaves_nothing_unless_it_is_to_be_kept(cli: Cli, served: Served) -> None:
    for words in (["-d"], ["--rm"], ["-d", "--rm"], []):
        assert cli("run", *words, "--name", "web", "missing:1").returncode == 125
        assert served.fakes.containers.rows == {}
    assert cli("run", "--name", "web", "--keep", "missing:1").returncode == 125
    assert cli("ps", "-a", "--json").stdout.count('"name": "web"') == 1


def test_a_command_that_is_not_there_is_127(cli: Cli) -> None:
    done = cli("run", "--rm", "busybox", "missing")
    assert done.returncode == 127
    assert "no program 'missing'" in done.stderr


def test_a_failed_start_is_told_in_three_lines(cli: Cli) -> None:
    done = cli("run", "missing:1")
    assert done.returncode == 125
    assert done.stderr.splitlines() == [
        "error: the image missing:1 does not exist",
        "  why: the registry answered: manifest unknown",
        " next: check the name and the tag",
    ]


def test_a_first_interrupt_stops_the_container(env: dict[str, str], served: Served) -> None:
    process = subprocess.Popen(
        [*WARMBOOT, "run", "--name", "c", "busybox", "ticks", "1000"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "tick 0\n"
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(10) == 143
    (container,) = served.fakes.containers.rows.values()
    assert container.state == "exited"


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
    assert f"error: '{address}' is no address of a manager" in done.stderr
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
    assert 5395 < (datetime.now(UTC) - since).total_seconds() < 5430
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
    assert names("-f", "label=team=x") == ["web-1"]
    assert names("-f", "label=team", "-f", "label=env=test") == ["web-1"]
    assert names("-f", "ancestor=redis:7") == ["web-1"]
    assert names("-f", "publish=80") == ["web-1"]
    assert names("-f", "status=exited") == ["ended"]
    assert names("-a", "-f", "exited=3") == ["ended"]
    assert names("-f", "exited=3") == []
    assert names("-n", "2") == ["ended", "web-2"]
    assert names("-l") == ["ended"]
    (whole,) = json.loads(cli("ps", "--json", "-f", "name=web-1").stdout)
    assert whole["id"] in cli("ps", "--no-trunc").stdout
    assert whole["id"] not in cli("ps").stdout
    for wrong in ("name", "colour=red", "status=lost"):
        assert cli("ps", "-f", wrong).returncode == 2


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
    both = cli("rm", "-f", "nothing", "c")
    assert (both.stdout, both.returncode) == ("c\n", 1)


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


def test_runtime_images_and_snapshots(cli: Cli, tmp_path: Path) -> None:
    image_id = cli("runtime", "register", str(tmp_path), "--name", "trixie").stdout.strip()
    assert cli("runtime", "ls", "-q").stdout.strip() == image_id
    assert "trixie" in cli("runtime", "ls").stdout
    assert json.loads(cli("runtime", "show", "trixie", "--json").stdout)["id"] == image_id
    built = cli("snapshot", "create", "trixie", "-m", "512m").stdout.strip()
    listed = json.loads(cli("snapshot", "ls", "--json").stdout)
    assert [(item["id"], item["state"]) for item in listed] == [(built, "ready")]
    assert listed[0]["shape"] == {"vcpus": 2, "memory_mib": 512}
    assert "2 × 512 MiB" in cli("snapshot", "ls").stdout
    assert "2 vCPU, 512 MiB" in cli("snapshot", "show", built[:8]).stdout
    shown = cli("snapshot", "show", built[:8]).stdout
    assert "version        1\nbuilt          as it was asked for\n" in shown
    rebuilt = cli("snapshot", "rebuild", built[:8]).stdout.strip()
    assert rebuilt != built
    assert cli("snapshot", "rm", built[:8]).stdout == f"{built[:8]}\n"
    assert "deleted" in cli("snapshot", "ls", "-a").stdout
    in_use = cli("runtime", "rm", "trixie")
    assert in_use.returncode == 1
    assert "snapshots" in in_use.stderr
    assert "warmboot snapshot ls" in cli("snapshot", "show", "zzz").stderr


def test_images_and_snapshots_are_removed_together(cli: Cli, tmp_path: Path) -> None:
    cli("runtime", "register", str(tmp_path), "--name", "one", "--no-snapshot")
    built = [cli("snapshot", "create", "one", "-m", size).stdout.strip() for size in ("1g", "2g")]
    done = cli("snapshot", "rm", built[0], "nope", built[1])
    assert (done.stdout.split(), done.returncode) == (built, 1)
    assert "there is no runtime snapshot 'nope'" in done.stderr
    assert cli("snapshot", "ls", "-q").stdout == ""
    none = cli("runtime", "rm", "two", "three")
    assert ("'two'" in none.stderr, "'three'" in none.stderr) == (True, True)


def test_files_that_are_registered_keep_their_name_and_say_it(cli: Cli, tmp_path: Path) -> None:
    first = cli("runtime", "register", str(tmp_path), "--name", "one")
    assert "already" not in first.stderr
    again = cli("runtime", "register", str(tmp_path), "--name", "two")
    assert again.stdout == first.stdout
    assert "these files are registered already, under the name one" in again.stderr


def test_a_kernel_alone_is_no_image(cli: Cli) -> None:
    done = cli("runtime", "register", "--kernel", "/boot/vmlinuz")
    assert done.returncode == 2
    assert "--kernel and --rootfs" in done.stderr


def test_a_build_that_fails_says_why_though_nothing_is_left_of_a_rebuild(
    cli: Cli, served: Served, tmp_path: Path
) -> None:
    cli("runtime", "register", str(tmp_path), "--name", "trixie")
    good = cli("snapshot", "create", "trixie").stdout.strip()
    served.fakes.snapshots.build_fails = CanaryFailed(
        "the new runtime snapshot failed its test", details="no Docker", resolution="try again"
    )
    for words in (("create", "trixie"), ("rebuild", good)):
        failed = cli("snapshot", *words)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert "error: the new runtime snapshot failed its test" in failed.stderr
        assert "next: try again" in failed.stderr


def test_versions_are_weighed_pinned_and_compared(cli: Cli, served: Served, tmp_path: Path) -> None:
    served.fakes.images.snapshots = served.fakes.snapshots
    registered = cli("runtime", "register", str(tmp_path), "--name", "trixie")
    assert "its snapshot" in registered.stderr
    assert "is being built" in registered.stderr
    again = cli("runtime", "register", str(tmp_path), "--name", "trixie")
    assert again.stdout == registered.stdout
    assert "already" in again.stderr
    second = cli("snapshot", "create", "trixie").stdout.strip()
    listed = json.loads(cli("snapshot", "ls", "--json").stdout)
    assert sorted(item["version"] for item in listed) == [1, 2]
    assert cli("snapshot", "weight", second[:8], "2.5").stdout.strip() == second
    assert cli("snapshot", "pin", second[:8]).returncode == 0
    shown = cli("snapshot", "show", second[:8]).stdout
    assert re.search(r"weight +2\.5", shown)
    assert re.search(r"pinned +yes", shown)
    assert re.search(r"usable here +yes", shown)
    assert "2.5 pinned" in cli("snapshot", "ls").stdout
    assert cli("snapshot", "unpin", second[:8]).returncode == 0
    assert "pinned" not in cli("snapshot", "ls").stdout
    compared = cli("snapshot", "stats", "trixie")
    assert [line.split()[:2][1] for line in compared.stdout.splitlines()[1:]] == ["trixie"] * 2
    assert {one["version"] for one in json.loads(cli("snapshot", "stats", "--json").stdout)} == {
        1,
        2,
    }
    for weight, words in (
        ("many", "is no number"),
        ("-1", "is no weight"),
        ("nan", "is no weight"),
    ):
        refused = cli("snapshot", "weight", second[:8], "--", weight)
        assert refused.returncode == 2
        assert words in refused.stderr
    too_much = cli("snapshot", "weight", second[:8], "1e9")
    assert too_much.returncode == 1
    assert "1000000" in too_much.stderr
    cli("snapshot", "rm", second[:8])
    deleted = cli("snapshot", "pin", second[:8])
    assert deleted.returncode == 1
    assert "deleted" in deleted.stderr


def test_an_image_can_be_registered_without_a_snapshot(
    cli: Cli, served: Served, tmp_path: Path
) -> None:
    served.fakes.images.snapshots = served.fakes.snapshots
    registered = cli("runtime", "register", str(tmp_path), "--name", "trixie", "--no-snapshot")
    assert registered.stderr == ""
    assert cli("snapshot", "ls", "-q").stdout == ""


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
            assert following.wait(10) == 130
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


def test_doctor_asks_the_manager_and_tells_why(cli: Cli) -> None:
    done = cli("doctor")
    assert done.returncode == 0
    assert "note kvm" in done.stdout
    assert "why: the CPU flags show neither vmx nor svm" in done.stdout
    assert done.stdout.endswith("Ready: the manager runs.\n")
    assert len(json.loads(cli("doctor", "--json").stdout)) == 3


def test_help_is_quick_and_imports_nothing_slow() -> None:
    code = (
        "import sys, warmboot.cli.main; "
        "print([m for m in ('httpx', 'pydantic', 'fastapi', 'rich.table', 'websockets') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("images", "warmboot runtime ls"),
        ("pull", "warmboot run"),
        ("cp", "warmboot exec -i"),
        ("stats", "warmboot top"),
        ("pause", "warmboot worker pause"),
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


def test_container_names_are_completed(cli: Cli) -> None:
    cli("run", "-d", "--name", "completed", "busybox")
    line = {"COMP_WORDS": "warmboot logs comp", "COMP_CWORD": "2"}
    for _ in range(5):  # it gives up after a moment, which a busy machine may take
        done = cli(_WARMBOOT_COMPLETE="complete_bash", **line)
        if done.stdout:
            break
    assert done.stdout.strip() == "completed"
    started = time.monotonic()
    down = cli(
        _WARMBOOT_COMPLETE="complete_bash",
        COMP_WORDS="warmboot logs comp",
        COMP_CWORD="2",
        WARMBOOT_URL="http://127.0.0.1:1",
    )
    assert down.stdout.strip() == ""
    assert time.monotonic() - started < 5


def test_output_that_nobody_reads_is_no_error(env: dict[str, str], cli: Cli) -> None:
    cli("run", "--name", "c", "busybox", "ticks", "3")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*WARMBOOT, "logs", "c"], env=env, stdout=writer, stderr=subprocess.PIPE, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    os.close(writer)
    assert "Traceback" not in done.stderr


def test_a_snapshot_shows_what_becomes_of_its_rebuilds(
    cli: Cli, served: Served, tmp_path: Path
) -> None:
    served.fakes.images.snapshots = served.fakes.snapshots
    cli("runtime", "register", str(tmp_path), "--name", "trixie")
    (row,) = served.fakes.snapshots.rows.values()
    assert not re.search(r"rebuilds +\S", cli("snapshot", "show", str(row.id)).stdout)
    for not_before, words in (
        (datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), "not before 2030-01-02 03:04:05 UTC"),
        (None, "given up; `warmboot snapshot rebuild"),
    ):
        served.fakes.snapshots.rows[row.id] = replace(
            row, rebuild_failures=2, rebuild_not_before=not_before
        )
        shown = cli("snapshot", "show", str(row.id)).stdout
        assert "2 failed in a row" in shown
        assert words in shown

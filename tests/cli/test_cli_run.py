"""``warmboot run``: its options, its output, its code, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.cli.conftest import WARMBOOT, Cli, Served

from warmboot.model.tenants.host_folder import HostFolder


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
    assert spec.environment == {"FROM_FILE": "1", "A": "b=c", "HERE": "here", "GONE": None}
    assert spec.entrypoint == ("/bin/x",)
    assert spec.command is None
    assert str(spec.shape) == "1 vCPU, 512 MiB"
    assert spec.boot == "cold"
    assert (spec.tty, spec.stdin_open, spec.auto_remove) == (True, True, True)
    assert spec.labels == {"team": "x"}
    assert (spec.user, spec.working_dir, spec.hostname) == ("1000:1000", "/data", "box")
    assert (spec.stop_signal, spec.stop_timeout_s) == ("SIGINT", 3)


def test_run_passes_on_dockers_options(cli: Cli, served: Served) -> None:
    done = cli(
        "run", "-d", "--init", "--read-only", "--tmpfs", "/tmp:size=64m", "-v", "db:/data:ro",
        "--mount", "type=tmpfs,target=/scratch,tmpfs-size=1m", "--cap-add", "NET_ADMIN",
        "--ulimit", "nofile=10:20", "--shm-size", "64m", "--pids-limit", "0", "--cpus", "1.5",
        "--restart", "on-failure:3", "--health-cmd", "true", "--health-interval", "1m30s",
        "--add-host", "db:192.0.2.7", "--dns", "192.0.2.53", "--pull", "always", "img",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (container,) = served.fakes.containers.rows.values()
    spec, options = container.spec, container.spec.options
    assert (options.init, options.read_only, options.tmpfs) == (True, True, {"/tmp": "size=64m"})
    assert [(m.type, m.source, m.target, m.read_only) for m in options.mounts] == [
        ("volume", "db", "/data", True),
        ("tmpfs", "", "/scratch", False),
    ]
    assert (options.cap_add, options.shm_size_bytes, options.pids_limit) == (
        ("NET_ADMIN",), 64 << 20, -1,
    )  # fmt: skip
    assert [(u.soft, u.hard) for u in options.ulimits] == [(10, 20)]
    assert spec.shape is not None
    assert (spec.shape.vcpus, options.cpus) == (2, 1.5)
    assert (options.restart.mode, options.restart.maximum_retries) == ("on-failure", 3)
    assert options.health is not None
    assert (options.health.test, options.health.interval_s) == (("CMD-SHELL", "true"), 90)
    assert (options.add_hosts, options.dns) == (("db:192.0.2.7",), ("192.0.2.53",))
    assert options.pull == "always"


def test_options_that_contradict_each_other_are_refused_in_dockers_words(cli: Cli) -> None:
    done = cli("run", "-d", "--rm", "--restart", "always", "img")
    assert done.returncode == 125
    words = "conflicting options: cannot specify both --restart and --rm"
    assert done.stderr.splitlines()[0] == f"error: {words}"
    done = cli("run", "--no-healthcheck", "--health-cmd", "true", "img", COLUMNS="200")
    assert done.returncode == 125
    assert "--no-healthcheck conflicts with --health-* options" in done.stderr


def test_run_i_passes_on_standard_input(cli: Cli) -> None:
    done = cli("run", "-i", "--rm", "busybox", "cat", stdin="through the pipe")
    assert (done.stdout, done.returncode) == ("through the pipe", 0)


def test_run_rm_leaves_nothing(cli: Cli, served: Served) -> None:
    assert cli("run", "--rm", "busybox", "ticks", "3").stdout == "tick 0\ntick 1\ntick 2\n"
    assert served.fakes.containers.rows == {}


def test_an_archive_may_come_through_a_pipe(cli: Cli, served: Served) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "wb") as pipe:
        pipe.write(b"as from <(docker save app)")
        pipe.close()
        done = cli("run", "-d", "--archive", f"/dev/fd/{reader}", "app")
    assert done.returncode == 0, done.stderr
    done = cli("run", "-d", "--archive", "/dev/stdin", "app", stdin="through standard input")
    assert done.returncode == 0, done.stderr
    kept = list(served.fakes.archives.kept.values())
    assert kept == [b"as from <(docker save app)", b"through standard input"]


def test_run_uploads_an_archive_first(cli: Cli, served: Served, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"tar" * 1000)
    done = cli("run", "--archive", str(archive), "app:1", "echo", "ok")
    assert done.stdout == "ok\n"
    assert list(served.fakes.archives.kept.values()) == [b"tar" * 1000]
    missing = cli("run", "--archive", str(tmp_path / "no.tar"), "app:1")
    assert missing.returncode == 125
    assert "docker save" in missing.stderr


def test_run_gives_folders_with_the_callers_rights(cli: Cli, served: Served) -> None:
    words = ("--folder", ".", "--folder", "/srv/data:ro", "-v", "./src:/src:ro")
    done = cli("run", "-d", *words, "--mount", "type=bind,src=/srv/data,dst=/data", "app")
    assert done.returncode == 0, done.stderr
    (container,) = served.fakes.containers.rows.values()
    spec, here = container.spec, Path.cwd()
    assert spec.folders == (HostFolder(str(here)), HostFolder("/srv/data", read_only=True))
    assert spec.owner_uid == os.getuid()
    assert [(one.source, one.read_only) for one in spec.options.mounts] == [
        (f"{here}/src", True),
        ("/srv/data", False),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cpus", "64"], "64 CPUs are not possible: a VM has 1 to 32"),
        (["-m", "100g"], "'100g' is not possible: a VM has 256m to 64g"),
        (["-p", "80:80:80:80"], "'80:80:80:80' is not a port; write [ip:][host:]container[/udp]"),
        (["--network", "x"], "No such option '--network': each container has its own network"),
        (["-m", "lots"], "512m or 1g"),
        (["-p", "70000"], "is not a port"),
        (["-p", "1-5:1-4"], "invalid ranges specified"),
        (["-p", "x:1:1"], "not an IPv4 address"),
        (["-p", "[::1]:8080:80"], "on IPv4 addresses only"),
        (["-p", "::1:8080:80"], "on IPv4 addresses only"),
        (["-v", "a/b:/data"], "includes invalid characters for a volume name"),
        (["--mount", "type=bind,target=/data"], "source is required"),
        (["--folder", ""], "is no folder"),
        (["-w", "data"], "not an absolute path"),
        (["-h", "Not_A_Name"], "not a host name"),
        (["--stop-signal", "NONE"], "is not a signal"),
        (["--stop-timeout", "soon"], "not a whole number"),
        (["--no-such-option"], "No such option"),
        (["--env-file", "/nowhere"], "cannot be read"),
        (["--name", "a/b"], "is not a valid name"),
        (["--runtime", "none"], "no runtime image"),
        (["-it"], "not a terminal"),
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
        (["--label", "a b=c", "busybox"], "--label 'a b'"),
        (["--user", "u" * 300, "busybox"], "--user"),
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


@pytest.mark.parametrize("words", [[], ["--rm"], ["--rm", "-i"]])
def test_a_command_that_is_not_there_is_127(cli: Cli, words: list[str]) -> None:
    done = cli("run", *words, "busybox", "missing")
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
        assert process.wait(60) == 143
    (container,) = served.fakes.containers.rows.values()
    assert container.state == "exited"

"""``warmboot engine`` against the in-memory services."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.cli.conftest import WARMBOOT, Cli, Served

SOCKET = "/run/warmboot/18080/engines/ci.sock"


def test_an_engine_is_created_shown_stopped_and_removed(cli: Cli) -> None:
    made = cli(
        *("engine", "create", "ci", "-l", "for=tests", "--ttl", "2h", "--rm"),
        *("--host-port", "5000", "--folder", ".", "--folder", "/srv/a:b:ro", "--folder=/tmp:rw"),
    )
    assert made.returncode == 0, made.stderr
    engine_id = made.stdout.strip()
    assert cli("engine", "ls", "-q").stdout.strip() == engine_id
    assert SOCKET in cli("engine", "ls").stdout.replace("\n", "")
    (shown,) = json.loads(cli("engine", "inspect", "ci").stdout)
    assert (shown["id"], shown["labels"], shown["auto_remove"]) == (
        engine_id,
        {"for": "tests"},
        True,
    )
    assert (shown["owner_uid"], shown["time_to_live_s"]) == (os.getuid(), 7200)
    assert shown["host_ports"] == [5000]
    assert shown["folders"] == [
        {"path": str(Path.cwd()), "read_only": False},
        {"path": "/srv/a:b", "read_only": True},
        {"path": "/tmp", "read_only": False},
    ]
    assert cli("engine", "socket", "ci").stdout == f"{SOCKET}\n"
    assert cli("engine", "logs", "ci").stdout == "booting ci\n"
    assert cli("engine", "rm", "ci").returncode == 1
    assert cli("engine", "stop", "ci").stdout == "ci\n"
    assert cli("engine", "start", "ci").stdout == "ci\n"
    assert cli("engine", "rm", "-f", "ci").stdout == "ci\n"
    assert json.loads(cli("engine", "ls", "--json").stdout) == []


def test_a_shell_takes_over_what_env_prints(cli: Cli) -> None:
    cli("engine", "create", "ci")
    printed = cli("engine", "env", "ci").stdout
    told = subprocess.run(
        ["sh", "-c", f"{printed}\necho $DOCKER_HOST $TC_HOST; env | grep ^TESTCON | sort"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines() == [
        f"unix://{SOCKET} 127.19.0.7",
        "TESTCONTAINERS_CONNECTION_MODE=docker_host",
        "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE=/var/run/docker.sock",
        "TESTCONTAINERS_HOST_OVERRIDE=127.19.0.7",
    ]


def test_the_default_socket_is_told_without_asking_the_manager(cli: Cli, tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/m.sock"  # where nobody listens
    missing = cli("engine", "socket", WARMBOOT_URL=url)
    assert (missing.returncode, "MANAGER_ENGINE_USERS" in missing.stderr) == (1, True)
    path = tmp_path / "m" / "users" / f"{os.getuid()}.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(path))
        assert cli("engine", "socket", WARMBOOT_URL=url).stdout == f"{path}\n"
    elsewhere = cli("engine", "socket", WARMBOOT_URL="http://192.0.2.1:18080")
    assert (elsewhere.returncode, "is no Unix socket" in elsewhere.stderr) == (1, True)


def test_certificates_are_written_as_docker_looks_for_them(cli: Cli, tmp_path: Path) -> None:
    made = cli("engine", "create", "ci", "--tcp", "192.0.2.7:2376")
    assert made.returncode == 0, made.stderr
    (shown,) = json.loads(cli("engine", "inspect", "ci").stdout)
    assert shown["tcp"] == {"address": "192.0.2.7", "port": 2376}
    folder = tmp_path / "certs"
    for _ in range(2):  # they may be there already
        assert cli("engine", "certs", "ci", str(folder)).returncode == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "ca.pem": "an authority\n",
        "cert.pem": "a certificate\n",
        "key.pem": "a key\n",
    }
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    (shown,) = json.loads(cli("engine", "inspect", "ci").stdout)
    assert shown["certificates_expire_at"].startswith("2036-01-02T03:04:05")
    renewed = cli("engine", "certs", "--renew", "ci", str(folder))
    assert renewed.stderr.startswith("valid until 2036-01-02"), renewed.stderr
    assert (folder / "key.pem").read_text() == "a key 1\n"
    refused = cli("engine", "certs", "ci", "/proc/nowhere")
    assert (refused.returncode, "name a folder" in refused.stderr) == (1, True)
    cli("engine", "create", "loopback", "--tcp", "2377")
    (shown,) = json.loads(cli("engine", "inspect", "loopback").stdout)
    assert shown["tcp"] == {"address": "127.0.0.1", "port": 2377}


def test_what_is_wrong_is_told(cli: Cli) -> None:
    assert "no user" in cli("engine", "create", "--owner", "nobody-of-that-name").stderr
    assert "90m" in cli("engine", "create", "--ttl", "soon").stderr
    assert "64t at most" in cli("engine", "create", "--disk", "99t").stderr
    assert cli("engine", "create", "../up").returncode == 1
    assert "--host-port" in cli("engine", "create", "--host-port", "65536").stderr
    for wrong in ("65536", "0", "here:2376", "1.2.3.4:"):
        assert "2376" in cli("engine", "create", "--tcp", wrong).stderr
    cli("engine", "create", "ci")
    again = cli("engine", "create", "ci")
    assert (again.returncode, "already" in again.stderr) == (1, True)
    assert cli("engine", "inspect", "other").returncode == 1


def test_one_that_fails_leaves_nothing_behind(cli: Cli, served: Served) -> None:
    served.fakes.engines.fails = {"code": "vm-gone", "brief": "it did not boot"}
    made = cli("engine", "create", "ci")
    assert (made.returncode, "it did not boot" in made.stderr) == (1, True)
    assert served.fakes.engines.removed == ["ci"]


def run(env: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WARMBOOT, "engine", "run", *words], env=env, capture_output=True, text=True, check=False
    )


def test_a_command_gets_an_engine_and_its_exit_code_is_ours(
    env: dict[str, str], served: Served
) -> None:
    script = 'echo "$DOCKER_HOST $DOCKER_CONTEXT"; exit 7'
    ran = run({**env, "DOCKER_CONTEXT": "mine"}, "--", "sh", "-c", script)
    assert ran.returncode == 7, ran.stderr
    assert ran.stdout.startswith("unix:///run/warmboot/18080/engines/")
    assert "mine" not in ran.stdout
    assert len(served.fakes.engines.removed) == 1


def test_a_command_that_is_killed_and_one_that_is_not_there(
    env: dict[str, str], served: Served
) -> None:
    assert run(env, "--", "sh", "-c", "kill -KILL $$").returncode == 137
    assert run(env, "--", "/no/such/program").returncode == 127
    assert len(served.fakes.engines.removed) == 2


def test_a_command_ends_with_warmboot_when_that_is_killed(
    env: dict[str, str], served: Served
) -> None:
    script = "trap 'echo told; exit' TERM; echo $$; while :; do sleep 0.1; done"
    with subprocess.Popen(
        [*WARMBOOT, "engine", "run", "--", "sh", "-c", script],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        command = int(process.stdout.readline())
        process.kill()
        try:
            read, _, _ = select.select([process.stdout], [], [], 60)
            assert read, "it lives on"
            assert process.stdout.read() == "told\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(command, signal.SIGKILL)


def test_the_engine_of_a_command_is_held_by_its_process(
    env: dict[str, str], served: Served
) -> None:
    run(env, "--", "true")
    (spec,) = served.fakes.engines.asked
    assert spec.holder is not None
    assert spec.auto_remove


@pytest.fixture
def docker(tmp_path: Path, env: dict[str, str]) -> str:
    """A PATH with a ``docker`` that keeps a context, and notes how it is called."""
    fake = tmp_path / "docker"
    shown = f"""[{{"Endpoints": {{"docker": {{"Host": "unix://{SOCKET}"}}}}}}]"""
    fake.write_text(
        f"""#!/bin/sh
cd {tmp_path} && echo "$@" >>calls
case "$2 $3" in
    *refused) echo "no room" >&2; exit 1 ;;
    create*) touch made ;;
    inspect*) test -e made && echo '{shown}' ;;
esac
"""
    )
    fake.chmod(0o755)
    return f"{tmp_path}:{env['PATH']}"


def test_a_context_leads_to_the_engine_and_goes_with_it(
    cli: Cli, docker: str, tmp_path: Path
) -> None:
    assert cli("engine", "create", "ci", "--context", PATH=docker).returncode == 0
    assert cli("engine", "rm", "-f", "ci", PATH=docker).returncode == 0
    assert (tmp_path / "calls").read_text().splitlines() == [
        "context inspect ci",
        f"context create ci --docker host=unix://{SOCKET}",
        "context inspect ci",
        "context rm --force ci",
    ]


@pytest.mark.parametrize(
    ("name", "brief"),
    [
        ("c", "docker has no context called c"),
        ("default", "docker has no context called default"),
        ("ci", "there is a docker context ci already"),
    ],
)
def test_a_context_that_cannot_be_is_refused_before_there_is_an_engine(
    cli: Cli, docker: str, tmp_path: Path, name: str, brief: str
) -> None:
    (tmp_path / "made").touch()
    made = cli("engine", "create", name, "--context", PATH=docker)
    assert (made.returncode, made.stderr.splitlines()[0]) == (1, f"error: {brief}")
    assert json.loads(cli("engine", "ls", "--json").stdout) == []


def test_a_context_that_docker_refuses_is_told_and_so_is_that_there_is_no_docker(
    cli: Cli, docker: str
) -> None:
    made = cli("engine", "create", "refused", "--context", PATH=docker)
    assert made.returncode == 1
    assert made.stderr.splitlines()[:2] == [
        "error: docker did not create the context refused",
        "  why: no room",
    ]
    missing = cli("engine", "create", "other", "--context", PATH="/nonexistent")
    assert (missing.returncode, "no docker program" in missing.stderr) == (1, True)

"""Options as docker takes them, or a sentence that says what to type."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Cli, Served

from warmboot.model.container import ContainerSpec


def spec_of(served: Served) -> ContainerSpec:
    (row,) = served.fakes.containers.rows.values()
    return row.spec


@pytest.mark.parametrize(
    ("words", "kept", "stdin", "tty"),
    [
        (["--rm=true", "-i=true", "-t=1"], True, True, True),
        (["--rm=false", "-it=false"], False, True, False),
        (["--rm=T", "--interactive=False"], True, False, False),
        (["--rm", "--rm=0", "-ti"], False, True, True),
        (["-d=true", "--tty"], False, False, True),
    ],
)
def test_a_flag_takes_what_docker_takes(
    cli: Cli, served: Served, words: list[str], kept: bool, stdin: bool, tty: bool
) -> None:
    done = cli("run", *words, "-d", "busybox", "sleep", "1000")
    assert (done.returncode, done.stderr) == (0, "")
    spec = spec_of(served)
    assert (spec.auto_remove, spec.stdin_open, spec.tty) == (kept, stdin, tty)


def test_a_short_option_takes_its_value_after_an_equals_sign(cli: Cli, served: Served) -> None:
    words = ("-m=512m", "-e=A=b=c", "-eB==", "-u=nobody", "-w=/tmp", "-p=127.0.0.1::80")
    assert cli("run", "-d", *words, "busybox", "sleep", "1000").returncode == 0
    spec = spec_of(served)
    assert spec.shape is not None
    assert spec.shape.memory_mib == 512
    assert spec.environment == {"A": "b=c", "B": "="}
    assert (spec.user, spec.working_dir) == ("nobody", "/tmp")
    assert [(port.host_ip, port.container_port) for port in spec.ports] == [("127.0.0.1", 80)]


def test_of_two_words_for_one_flag_each_can_be_turned_round(cli: Cli) -> None:
    assert cli("events", "--no-follow=true").returncode == 0
    assert cli("events", "--follow=false").returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "--rm=yes", "busybox"], "'--rm' is true or false, not 'yes'"),
        (["run", "-it=2", "busybox"], "'-t' is true or false, not '2'"),
        (["ps", "--all="], "'--all' is true or false, not ''"),
        (["ps", "-x=1"], "No such option"),
    ],
)
def test_any_other_value_is_refused_by_name(cli: Cli, words: list[str], told: str) -> None:
    done = cli(*words)
    assert done.returncode == (125 if words[0] == "run" else 2)
    assert told in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    "words", [["run", "-d", "-w", "rel", "busybox"], ["exec", "-w=rel", "c", "pwd"]]
)
def test_a_working_folder_is_an_absolute_path(cli: Cli, words: list[str]) -> None:
    cli("run", "-d", "--name", "c", "busybox", "sleep", "1000")
    done = cli(*words)
    assert done.returncode == (125 if words[0] == "run" else 2)
    assert "'rel' is not an absolute path" in done.stderr


def test_an_archive_that_is_none_is_told_what_to_type(cli: Cli, tmp_path: Path) -> None:
    for name, told in (
        ("-", "docker save app:1 | warmboot run --archive /dev/stdin app:1"),
        (str(tmp_path), f"tar -C {tmp_path} -cf image.tar ."),
        (str(tmp_path / "none.tar"), f"docker save -o {tmp_path}/none.tar app:1"),
    ):
        done = cli("run", "--archive", name, "app:1")
        assert (done.returncode, done.stdout) == (125, "")
        assert done.stderr.startswith("error: ")
        assert told in done.stderr

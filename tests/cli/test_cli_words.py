"""What is said about a mistake on the command line: a sentence of ours, and what to do here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from tests.cli.conftest import Cli
from tests.support.command_line import PROGRAM, run_here

from warmboot.cli import docker_words

VALIDATORS_WORDS = ("Input should", "String should", "Value error", "pydantic", "parse string")


def said(*words: str) -> tuple[int, str]:
    """The exit code, and the sentence, without the frame around it."""
    ran = run_here(words, {"COLUMNS": "200", "WARMBOOT_URL": "http://127.0.0.1:9"})
    lines = (line.strip("│╭╮╰╯─ ") for line in ran.stderr.splitlines())
    return ran.returncode, " ".join(line for line in lines if line)


def parameters() -> Iterator[tuple[tuple[str, ...], Any]]:
    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*path, name))
        for parameter in command.params:
            yield path, parameter

    yield from walk(PROGRAM, ())


def typed(kind: type) -> list[Any]:
    """The options of all commands whose value is such a one."""
    return [
        pytest.param((*path, parameter.opts[0]), id=" ".join((*path, parameter.opts[0])))
        for path, parameter in parameters()
        if parameter.param_type_name == "option"
        and kind in (wanted := parameter.type_descriptor.annotation, *get_args(wanted))
    ]


@pytest.mark.parametrize("words", typed(int))
def test_what_is_no_whole_number_is_called_that(words: tuple[str, ...]) -> None:
    code, sentence = said(*words, "1.5")
    assert code in (2, 125)
    assert sentence.endswith("'1.5' is not a whole number")


@pytest.mark.parametrize("words", typed(float))
@pytest.mark.parametrize("value", ["soon", "nan", "inf"])
def test_what_is_no_number_is_called_that(words: tuple[str, ...], value: str) -> None:
    code, sentence = said(*words, value)
    assert code in (2, 125)
    assert sentence.endswith(f"'{value}' is not a number")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("serve", "--port", "99999"), "99999 is not possible: use 0 to 65535"),
        (("ps", "--last", "-1"), "-1 is not possible: use 0 or more"),
        (("worker", "import", "w", "/no/such/file"), "there is no file /no/such/file"),
        (("worker", "import", "w", "/"), "/ is a folder"),
    ],
)
def test_what_is_possible_is_said(words: tuple[str, ...], sentence: str) -> None:
    code, found = said(*words)
    assert code == 2
    assert found.endswith(sentence)
    assert not any(word in found for word in VALIDATORS_WORDS)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("images",), "No such command 'images': `warmboot run` pulls the image"),
        (("pull", "redis"), "No such command 'pull': `warmboot run` pulls the image"),
        (("rmi", "redis"), "No such command 'rmi': an image is kept by no one"),
        (("events", "--format", "json"), "No such option '--format': --json prints"),
        (("ps", "--format", "{{range .}}"), "{{range .}} is not understood; understood are"),
        (("exec", "--privileged", "c", "sh"), "No such option '--privileged': what `run"),
        (("run", "--net=host", "redis"), "No such option '--net': each container has its own"),
        (("logs", "--details", "c"), "No such option '--details': `warmboot inspect` shows"),
        (("restart", "-s", "TERM", "c"), "No such option '-s': `warmboot stop -s SIGNAL"),
    ],
)
def test_what_docker_has_and_we_have_not_is_told_with_what_to_do_here(
    words: tuple[str, ...], sentence: str
) -> None:
    assert sentence in said(*words)[1]


DOCKERS: dict[str, str] = {  # of its version 28; what `run` has of ours is not written again
    "run": """--annotation -a --attach --blkio-weight --blkio-weight-device --cgroup-parent
        --cgroupns --cidfile --cpu-count --cpu-percent --cpu-period --cpu-quota --cpu-rt-period
        --cpu-rt-runtime -c --cpu-shares --cpuset-cpus --cpuset-mems --detach-keys --device
        --device-cgroup-rule --device-read-bps --device-read-iops --device-write-bps
        --device-write-iops --disable-content-trust --domainname --expose --gpus --group-add
        --io-maxbandwidth --io-maxiops --ip --ip6 --ipc --isolation --kernel-memory --label-file
        --link --link-local-ip --log-driver --log-opt --mac-address --memory-reservation
        --memory-swap --memory-swappiness --network --network-alias --oom-kill-disable
        --oom-score-adj --pid --security-opt --sig-proxy --storage-opt
        --use-api-socket --userns --uts --volume-driver --volumes-from""",
    "ps": "-s --size",
    "exec": "--detach-keys --privileged",
    "logs": "--details",
    "inspect": "-s --size --type",
    "attach": "--detach-keys --sig-proxy",
    "start": "--checkpoint --checkpoint-dir --detach-keys",
    "restart": "-s --signal",
    "rm": "-l --link",
    "events": "--filter --format --since --until",
}


@pytest.mark.parametrize(
    ("command", "option"),
    [(command, option) for command, options in DOCKERS.items() for option in options.split()],
)
def test_each_option_of_dockers_that_we_have_not_is_told_with_what_to_do(
    command: str, option: str
) -> None:
    assert f"No such option '{option}': " in said(command, option, "c")[1]


@pytest.mark.parametrize(
    ("words", "guessed"),
    [
        (("run", "--publsh", "80", "redis"), "(Possible options: --publish)"),
        (("run", "--networkk", "x", "redis"), ""),
        (("run", "--frobnicate", "--zzz", "redis"), ""),
    ],
)
def test_only_an_option_that_is_nearly_the_same_is_guessed(
    words: tuple[str, ...], guessed: str
) -> None:
    assert said(*words)[1].endswith(f"No such option: {words[1]} {guessed}".rstrip())


@pytest.mark.parametrize("command", ["stop", "restart"])
def test_how_long_to_wait_has_both_of_its_names(command: str) -> None:
    assert all(
        "no manager answers" in said(command, f"--{t}=1", "c")[1] for t in ("time", "timeout")
    )


@pytest.mark.parametrize("tail", ["-1", "-5", "all"])
def test_less_than_no_lines_of_a_log_are_all_of_them(cli: Cli, tail: str) -> None:
    cli("run", "--name", "c", "busybox", "ticks", "3")
    assert cli("logs", "-n", tail, "c").stdout == cli("logs", "c").stdout != ""
    cli("worker", "run", "--name", "my-worker", "app:1")
    of_worker = cli("worker", "logs", "my-worker").stdout
    assert cli("worker", "logs", "-n", tail, "my-worker").stdout == of_worker != ""


@pytest.mark.parametrize("name", [*docker_words._COMMANDS])
def test_nothing_is_called_missing_that_is_there(name: str) -> None:
    assert name not in PROGRAM.commands


@pytest.mark.parametrize("option", [*docker_words._OPTIONS])
def test_no_option_is_called_missing_that_run_has(option: str) -> None:
    run = PROGRAM.commands["run"]
    assert not any(option in parameter.opts for parameter in run.params)


def test_a_setting_is_refused_in_words() -> None:
    environment = {"MANAGER_STANDBY_VMS": "many", "MANAGER_HYPERVISOR": "simulated"}
    assert run_here(("serve",), environment).stderr.splitlines() == [
        "error: MANAGER_STANDBY_VMS is 'many'; it must be 'auto' or a whole number from 0 to 64",
        " next: correct the environment variable",
    ]


# -- what the manager refuses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "brief"),
    [
        (("logs", "-n", "5000000", "c"), "--tail is not valid"),
        (("worker", "run", "--name", "a b", "busybox"), "--name is not valid"),
        (("worker", "run", "--network", "a b", "busybox"), "--network is not valid"),
        (
            ("worker", "run", "-l", "a b=c", "--name", "", "busybox"),
            "--name, --label 'a b' are not valid",
        ),
        (("worker", "pause", "w", "-c", "a b"), "the checkpoint's name is not valid"),
        (
            ("run", "-d", "-l", "a b=c", "-u", "u" * 300, "busybox"),
            "--label 'a b', --user are not valid",
        ),
        (("run", "-d", "-p", "8080:80", "-p", "8080:81", "busybox"), "--publish is not valid"),
        (("exec", "-u", "u" * 300, "c", "true"), "--user is not valid"),
        (("exec", "-w", "/" + "w" * 4095, "c", "true"), "--workdir is not valid"),
        (
            ("exec", "-u", "u" * 300, "-w", "/" + "w" * 4095, "c", "true"),
            "--user, --workdir are not valid",
        ),
        (("exec", "c", *["a"] * 100_001), "COMMAND is not valid"),
        (("ps", "-f", "label=" + "u" * 5000), "--filter label is not valid"),
        (("engine", "create", "a/b"), "NAME is not valid"),
        (("engine", "create", "--from", "s" * 5000), "--from is not valid"),
        (("engine", "snapshot", "--name", "a/b", "e"), "--name is not valid"),
        (("rename", "c", "a/b"), "NAME is not valid"),
    ],
)
def test_what_the_manager_refuses_is_told_in_the_words_of_the_command_line(
    cli: Cli, words: tuple[str, ...], brief: str
) -> None:
    if words[0] == "exec":
        assert cli("run", "-d", "--name", "c", "busybox").returncode == 0
    done = cli(*words)
    first, *rest = done.stderr.splitlines()
    assert first == f"error: {brief}"
    command = " ".join(words[:2] if words[0] in ("engine", "worker") else words[:1])
    assert rest[-1] == f" next: see: warmboot {command} --help"
    for foreign in (*VALIDATORS_WORDS, "openapi", "pattern", "body.", "query.", "^"):
        assert foreign not in done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ("run", "-d", "-p", "90:80", "-p", "0.0.0.0:90:81", "busybox"),
            "the host port 0.0.0.0:90/tcp is published twice, for the container's ports 80 and 81",
        ),
        (
            ("run", "-d", "-u", "u" * 300, "busybox"),
            "it must have at most 256 characters, and has 300",
        ),
    ],
)
def test_what_is_too_much_is_said_with_the_limit(
    cli: Cli, words: tuple[str, ...], why: str
) -> None:
    assert f"  why: {why}" in cli(*words).stderr.splitlines()


@pytest.mark.parametrize("command", [("run", "-d"), ("exec",), ("worker", "run")])
def test_a_variable_that_is_too_long_is_named_with_its_file_and_line(
    cli: Cli, tmp_path: Path, command: tuple[str, ...]
) -> None:
    file = tmp_path / "e"
    file.write_text("OK=1\nBIG=" + "x" * 131_068)
    done = cli(*command, "--env-file", str(file), "c", "true", COLUMNS="500")
    assert done.returncode in (2, 125)
    assert f"{file}, line 2: the variable BIG is too long: it has 131072 bytes" in done.stderr
    file.write_text("OK=1\nBIG=" + "x" * 131_067)
    assert "too long" not in cli(*command, "--env-file", str(file), "c", "true").stderr


@pytest.mark.parametrize("command", [("run", "-d"), ("exec",), ("worker", "run")])
def test_what_is_too_much_together_is_not_even_sent(
    cli: Cli, tmp_path: Path, command: tuple[str, ...]
) -> None:
    file = tmp_path / "e"
    file.write_text("".join(f"N{number}={'x' * 100_000}\n" for number in range(50)))
    done = cli(*command, "--env-file", str(file), "c", "true", COLUMNS="500")
    assert done.returncode in (2, 125)
    assert "the arguments and the environment are too large together" in done.stderr
    assert "Linux gives a program 2097152 for them" in done.stderr


REFERENCES = ("CONTAINER", "WORKER", "IMAGE", "SNAPSHOT")


def commands_with_a_reference() -> Iterator[Any]:
    """Those whose first argument is one; some name images of registries."""
    for path, parameter in parameters():
        first = parameter.param_type_name == "argument" and parameter.metavar in REFERENCES
        if first and path[-1] not in ("run", "events", "prepare") and path != ("create",):
            yield pytest.param(path, id=" ".join(path))


MORE_WORDS = {
    ("exec",): ("true",),
    ("rename",): ("new",),
    ("snapshot", "weight"): ("1",),
    ("worker", "export"): ("one",),
    ("worker", "import"): ("/dev/null",),
}


@pytest.mark.parametrize("path", [*commands_with_a_reference()])
@pytest.mark.parametrize("reference", ["", "a/b", "n" * 500])
def test_what_can_be_no_name_names_nothing(cli: Cli, path: tuple[str, ...], reference: str) -> None:
    done = cli(*path, "--", reference, *MORE_WORDS.get(path, ()))
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no ")
    for foreign in ("GET", "POST", "DELETE", "/v1/", "403", "404", "not valid"):
        assert foreign not in done.stderr

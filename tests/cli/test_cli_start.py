"""What a command imports before its work: only what it needs, as the rest takes its time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Cli
from tests.support.command_line import PROGRAM

from warmboot.cli import completion
from warmboot.cli.main import COMMANDS

pytestmark = pytest.mark.slow  # processes, one for each command

IMPORTED = """
import atexit, sys
atexit.register(lambda: print("\\n" + " ".join(sys.modules)))
from warmboot.cli import completion
from warmboot.cli.entry import main
completion.ANSWER_TIMEOUT_S = 60.0  # it gives up after a moment, which a busy machine may take
main()
"""
SLOW = {"rich", "click", "pydantic", "websockets", "httpx", "asyncio"}


def imported(env: dict[str, str], *words: str) -> tuple[str, set[str]]:
    """The output, and the modules that a process of ``warmboot …`` has at its end."""
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED, *words],
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
        check=False,
    )
    output, _, modules = ran.stdout.rstrip("\n").rpartition("\n")
    assert ran.stderr == ""
    return output.rstrip("\n"), set(modules.split())


def completed(env: dict[str, str], line: str) -> tuple[list[str], set[str]]:
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    output, modules = imported({**env, "_WARMBOOT_COMPLETE": "complete_bash", **asked})
    return output.split("\n") if output else [], modules


def offers(env: dict[str, str], line: str) -> list[str]:
    """What bash is told to offer behind ``line``."""
    asked = {"COMP_LINE": line, "_WARMBOOT_COMPLETE": "complete_bash"}
    answer = imported({**env, **asked})[0]
    return answer.split("\n") if answer else []


def commands_of(modules: set[str]) -> set[str]:
    """The commands among them: ``options`` is what they share."""
    folder = "warmboot.cli.commands."
    return {name.removeprefix(folder) for name in modules if name.startswith(folder)} - {"options"}


def test_the_version_needs_no_command() -> None:
    said, modules = imported(dict(os.environ), "--version")
    assert said.startswith("warmboot ")
    assert not commands_of(modules)
    assert not modules & SLOW


def test_commands_are_completed_without_being_imported() -> None:
    found, modules = completed(dict(os.environ), "warmboot r")
    assert found == ["run", "restart", "rename", "rm", "runtime"]
    assert not commands_of(modules)
    assert not modules & SLOW


def test_options_are_completed_with_their_command_alone() -> None:
    found, modules = completed(dict(os.environ), "warmboot ps --la")
    assert found == ["--last", "--latest"]
    assert commands_of(modules) == {"ps"}
    assert not modules & SLOW - {"asyncio"}


def test_names_are_completed_without_the_client(cli: Cli, env: dict[str, str]) -> None:
    cli("run", "-d", "--name", "cache", "busybox")
    found, modules = completed(env, "warmboot stop ca")
    assert found == ["cache"]
    assert not modules & SLOW - {"asyncio"}


def test_ps_imports_a_client_and_no_other_command(env: dict[str, str]) -> None:
    said, modules = imported(env, "ps", "-q")
    assert said == ""
    assert commands_of(modules) == {"ps"}
    assert not modules & SLOW - {"asyncio", "httpx"}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_said_of_a_command_is_what_its_help_begins_with(name: str) -> None:
    help_ = " ".join((PROGRAM.commands[name].help or "").partition("\n\n")[0].split())
    assert COMMANDS[name].brief == help_
    assert PROGRAM.commands[name].name == name


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("warmboot exec -", True),
        ("warmboot exec up -", False),
        ("warmboot exec -u 0 up sh -", False),
        ("warmboot exec up tar --", False),
        ("warmboot run -p 80:80 --rm --", True),
        ("warmboot run -p 80:80 --rm redis:7 --", False),
        ("warmboot run --name=x -e A=b redis -", False),
        ("warmboot worker run app -", False),
        ("warmboot worker run -", True),
    ],
)
def test_no_options_of_ours_are_offered_to_a_containers_program(
    env: dict[str, str], line: str, *, offered: bool
) -> None:
    assert bool(offers(env, line)) == offered


@pytest.mark.parametrize("line", ["warmboot exec ", "warmboot attach ", "warmboot stop "])
def test_who_has_to_run_is_offered_only_if_it_runs(
    cli: Cli, env: dict[str, str], line: str
) -> None:
    cli("run", "-d", "--name", "up", "busybox")
    cli("run", "--name", "over", "busybox", "ticks", "1")
    cli("create", "--name", "new", "busybox")
    assert offers(env, line) == ["up"]
    assert sorted(offers(env, "warmboot start ")) == ["new", "over"]
    assert sorted(offers(env, "warmboot logs ")) == ["new", "over", "up"]


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("bash", "default"),
        ("zsh", "compset -P '*='; local -a found; found=('default'); _describe warmboot found"),
        ("fish", "--runtime=default"),
    ],
)
def test_a_value_is_offered_behind_an_equals_sign_too(
    cli: Cli, env: dict[str, str], shell: str, said: str, tmp_path: Path
) -> None:
    assert cli("runtime", "register", str(tmp_path), "--name", "default").returncode == 0
    for line in ("warmboot run --runtime=de", "warmboot run -p 80:80 --runtime="):
        asked = {"COMP_LINE": line, "_TYPER_COMPLETE_ARGS": line}
        answer = imported({**env, **asked, "_WARMBOOT_COMPLETE": f"complete_{shell}"})[0]
        assert answer == said


def test_what_has_no_name_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    things = [{"name": None, "state": "running"}, {"name": "up", "state": "running"}]
    monkeypatch.setattr(completion, "_asked", lambda _: {"items": things})
    assert completion.worker_names("") == completion.running_names("") == ["up"]


# -- files -----------------------------------------------------------------------------------------

COMPLETE = """
source <("$PROGRAM" -m scripts.manual bash)
warmboot() { "$PROGRAM" -m warmboot.cli "$@"; }
COMP_LINE="$1 $2"; COMP_POINT=${#COMP_LINE}
COMP_WORDS=($1 "$2"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
compopt() { echo "compopt $*"; }
_warmboot_completion warmboot
printf '%s\\n' "${COMPREPLY[@]}"
complete -p warmboot
"""


def in_bash(env: dict[str, str], words: str, incomplete: str) -> list[str]:
    """What is offered behind ``words``, and at last how bash was told to complete."""
    ran = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", words, incomplete],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        env={**env, "PROGRAM": sys.executable},
        check=True,
    )
    return ran.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("words", "incomplete", "offered"),
    [
        ("warmboot", "sn", ["snapshot"]),
        ("warmboot stop", "", [""]),
        ("warmboot logs", "READ", [""]),
        ("warmboot run", "", [""]),
        ("warmboot run --env-file", "", ["compopt -o default", ""]),
        ("warmboot worker import w", "", ["compopt -o default", ""]),
    ],
)
def test_files_are_offered_where_a_file_is_wanted_only(
    env: dict[str, str], words: str, incomplete: str, offered: list[str]
) -> None:
    assert in_bash(env, words, incomplete) == [
        *offered,
        "complete -F _warmboot_completion warmboot",
    ]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_offered_no_files_either(env: dict[str, str], shell: str) -> None:
    line = {"_TYPER_COMPLETE_ARGS": "warmboot stop ", "_WARMBOOT_COMPLETE": f"complete_{shell}"}
    assert imported({**env, **line})[0] == ""

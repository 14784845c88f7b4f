"""Whatever is typed, set or closed: the command line does it, or says in a sentence why not.

An exception that comes out of ``cli`` would have been a traceback.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cli.conftest import WARMBOOT, Cli, Served
from tests.support.command_line import PROGRAM

from warmboot.model.container import ContainerState

NOT_RUN = {
    ("serve",),  # a manager
    ("runtime", "build"),  # half an hour of downloads
    ("doctor",),  # may mend this machine
}
LASTING = {"--attach", "--follow", "--no-stdin", "--help", "--fix", "--restart-engine"}
ALWAYS = {
    ("run",): ["-d"],
    ("events",): ["--no-follow"],
    ("top",): ["--once"],
    ("wait",): ["--timeout", "0"],
    ("stats",): ["--no-stream"],
}
RUNNING = "c"
"""A container that runs: its program echoes its input, and ends with it."""
ODD = [
    *("c", "", "-", "--", "1", "0", "-1", "=", "=x", "K=V", "K", "/", "10m", "1e309", "nan", "inf"),
    *(
        "caf\udce9",
        "\udcff=\udcfe",
        "K=\udcfe",
        "\udc80",
        "🦦",
        "٣",
        "²",
        "a" * 5000,
        "9" * 5000,
        "9" * 5000 + "m",
        "x\ny",
        "\x1b[31m",
    ),
    *("99999999999999999999", "2026-01-24T12:00:00", "::", "80:80", "[::1]:1:1", "http://[", "%s"),
    *("running", "TERM", "status=\udce9", "{}", "[/bold]", "../..", ".", "busybox", "missing:1"),
]


def texts() -> st.SearchStrategy[str]:
    """What a shell can hand over: any bytes but NUL."""
    some = st.binary(max_size=12).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
    return st.one_of(st.sampled_from(ODD), some)


def commands(
    group: Any = PROGRAM, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif (*path, name) not in NOT_RUN:
            yield (*path, name), command


@st.composite
def lines(draw: st.DrawFn, only: tuple[str, ...] = ()) -> list[str]:
    """A command with some of its options and arguments, whatever they are set to."""
    found = [one for one in commands() if not only or one[0] == only]
    path, command = draw(st.sampled_from(found))
    words, rare = [*path], 15 if only else 3
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            continue
        if LASTING.isdisjoint(parameter.opts) and draw(st.integers(0, rare)) == 0:
            words.append(draw(st.sampled_from(parameter.opts)))
            if not parameter.is_flag:
                words.append(draw(texts()))
    words += ALWAYS.get(path, [])
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            if parameter.name in ("ref", "refs") and (only or draw(st.booleans())):
                words.append(RUNNING)
                continue
            most = 1 if parameter.nargs == 1 else 3
            least = 1 if only else draw(st.integers(0, 1))
            words += draw(st.lists(texts(), min_size=least, max_size=most))
    return words


NAMES = ["WARMBOOT_TOKEN", "COLUMNS", "LINES", "TERM", "LANG", "HOME", "NO_COLOR", "K", "TZ"]
ENVIRONMENTS = st.dictionaries(
    st.sampled_from(NAMES), texts().filter(lambda text: "\0" not in text), max_size=3
)
ADDRESSES = ["WARMBOOT_URL", "MANAGER_SOCKET", "MANAGER_PORT", "MANAGER_STORAGE_ROOT"]

once = settings(
    deadline=None,
    max_examples=settings().max_examples // 2,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to a file by its name is written there."""
    monkeypatch.chdir(tmp_path)


@once
@given(words=lines(), environment=ENVIRONMENTS, stdin=st.text("ab\n\x10\x11é", max_size=5))
def test_any_words_and_environment(
    cli: Cli, served: Served, words: list[str], environment: Mapping[str, str], stdin: str
) -> None:
    one_container_runs(cli, served)
    done = cli(*words, stdin=stdin, **environment)
    assert done.returncode in range(256)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or done.stderr or done.stdout


@once
@given(words=lines(("exec",)), stdin=st.text("ab\n\x10\x11é", max_size=5))
def test_any_words_are_run_in_a_running_container_or_refused(
    cli: Cli, served: Served, words: list[str], stdin: str
) -> None:
    one_container_runs(cli, served)
    execs = served.fakes.containers.execs
    before = len(execs)
    done = cli(*words, stdin=stdin)
    assert "Traceback" not in done.stderr
    if len(execs) == before:
        assert done.returncode in (1, 2)
        assert "rror" in done.stderr
    elif not execs[-1].detach:
        assert (done.returncode, done.stderr.endswith(": not found\n")) == (127, True)


@once
@given(words=lines(("attach",)), stdin=st.text("ab\n\x10\x11é", max_size=5))
def test_anything_typed_reaches_the_container_that_is_attached(
    cli: Cli, served: Served, words: list[str], stdin: str
) -> None:
    one_container_runs(cli, served)
    done = cli(*words, stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr) == (0, stdin, "")


def one_container_runs(cli: Cli, served: Served) -> None:
    rows = served.fakes.containers.rows.values()
    kept = [row for row in rows if (row.name, row.state) == (RUNNING, ContainerState.RUNNING)]
    if left := [str(row.id) for row in rows if row not in kept]:
        cli("rm", "-f", *left)
    if not kept:
        assert cli("run", "-d", "-i", "--name", RUNNING, "busybox", "cat").returncode == 0


@once
@given(name=st.sampled_from(ADDRESSES), value=texts())
def test_any_address(cli: Cli, name: str, value: str) -> None:
    done = cli("ps", **{"WARMBOOT_URL": "", "MANAGER_STORAGE_ROOT": os.curdir, name: value})
    assert done.returncode in (0, 1)
    assert done.returncode == 0 or done.stderr.startswith("error: ")


@pytest.mark.parametrize("number", ["inf", "nan", "1e309", "1e300", "-1", "²", "٣", "9" * 5000])
@pytest.mark.parametrize(
    "words",
    [
        ["run", "-d", "busybox", "--cpus"],
        ["run", "-d", "busybox", "--memory"],
        ["run", "-d", "busybox", "-p"],
        ["snapshot", "create", "--cpus"],
        ["worker", "run", "busybox", "--idle"],
        ["worker", "run", "busybox", "--every"],
        ["logs", "c", "--tail"],
        ["logs", "c", "--since"],
    ],
)
def test_any_number_is_taken_or_refused(cli: Cli, words: list[str], number: str) -> None:
    *command, option = words
    image = command.pop() if command[-1] == "busybox" else None
    done = cli(*command, option, number, *([image] if image else []))
    assert done.returncode == 0 or done.stderr


@pytest.mark.parametrize("name", [".", "..", "/", "a" * 5000])
@pytest.mark.parametrize("words", [["inspect"], ["attach"], ["worker", "show"], ["start"]])
def test_any_name_is_one_of_nobody(cli: Cli, words: list[str], name: str) -> None:
    done = cli(*words, name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("name", ["", ".", "/", "a" * 5000])
def test_any_name_of_a_file_is_taken_or_refused(cli: Cli, name: str) -> None:
    for words in (["run", "--archive", name, "i"], ["worker", "export", "w", "k", name]):
        done = cli(*words)
        assert done.returncode in (1, 125)
        assert done.stderr.startswith("error: ")


@once
@given(words=st.lists(texts(), max_size=4))
def test_words_of_no_command(cli: Cli, words: list[str]) -> None:
    done = cli(*(word for word in words if word not in ("serve", "doctor", "top", "events")))
    assert done.stderr or done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("run --rm busybox echo hi", 0),
        ("run -i --rm busybox exit 7", 7),
        ("ps", 0),
        ("logs nobody", 1),
        ("--version", 0),
        ("no-such-command", 2),
    ],
)
def test_any_stream_may_be_closed(
    env: dict[str, str], command: str, code: int, closed: str
) -> None:
    done = sh(f'exec "$@" {command} {closed}', env)
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done.stderr
    if "echo hi" in command and ">&-" not in closed.replace("2>&-", ""):
        assert done.stdout == b"hi\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [("run --rm busybox echo hi", 1), ("ps", 1), ("--version", 1), ("--help", 1)],
)
def test_output_that_cannot_be_written_is_told_in_a_sentence(
    env: dict[str, str], command: str, code: int
) -> None:
    done = sh(f'exec "$@" {command} >/dev/full', env)
    assert done.returncode == code
    assert done.stderr.startswith(b"error: the output could not be written\n")
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("run --rm -p x busybox", 125),
        ("run --rm", 125),
        ("run --rm busybox exit 3", 3),
        ("logs nobody", 1),
        ("no-such-command", 2),
        ("stop -t x c", 2),
    ],
)
def test_the_exit_code_is_the_same_when_nobody_can_be_told(
    env: dict[str, str], command: str, code: int
) -> None:
    assert sh(f'exec "$@" {command} 2>/dev/full', env).returncode == code


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run --rm busybox echo caf\\351", "ps", "exec caf\\351 ls"])
def test_bytes_that_are_no_text_are_refused_by_name(env: dict[str, str], command: str) -> None:
    done = sh(f"exec \"$@\" $(printf '{command}')", env | {"PYTHONIOENCODING": "ascii"})
    assert b"Traceback" not in done.stderr
    if "351" in command:
        assert b"caf\\xe9" in done.stderr
        assert b"is not UTF-8 text" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", ["c caf\\351", "-e A=caf\\351 c env", "-d c caf\\351"])
def test_a_running_container_is_sent_no_bytes_that_are_no_text(
    cli: Cli, env: dict[str, str], words: str
) -> None:
    cli("run", "-d", "--name", "c", "busybox", "sleep", "1000")
    done = sh(f"exec \"$@\" exec $(printf '%b' '{words}')", env)
    assert b"Traceback" not in done.stderr
    assert b"is not UTF-8 text" in done.stderr


def sh(script: str, env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    words = ["sh", "-c", script, "sh", *WARMBOOT]
    return subprocess.run(words, env=env, capture_output=True, timeout=120, check=False)

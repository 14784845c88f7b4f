"""Signals, exit codes and what is left, with a real manager on the simulated hypervisor."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest
from tests.support.desks import WARMBOOT, Desk, desks

from warmboot.cli.terminal.signals import SAME_S

pytestmark = pytest.mark.slow  # as a whole: each is a process or several

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WAYS = {"plain": [], "input": ["-i"]}
LASTING = ("sh", "-c", "echo up; sleep 1000")


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with desks() as one:
        yield one


async def says_up(process: asyncio.subprocess.Process) -> None:
    """Its output was seen, so whoever stays with it does."""
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 90) == b"up\n"


async def ended(process: asyncio.subprocess.Process, timeout_s: float = 60.0) -> int:
    await asyncio.wait_for(process.communicate(), timeout_s)
    assert process.returncode is not None
    return process.returncode


# -- while it runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_a_signal_ends_the_container_and_rm_is_kept(
    desk: Desk, way: list[str], number: signal.Signals
) -> None:
    process = await desk.begin("run", *way, "--rm", "--name", "c", "busybox", *LASTING)
    await says_up(process)
    process.send_signal(number)
    assert await ended(process) == 128 + number
    assert await desk.names() == []


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_without_rm_it_has_ended_and_stays(desk: Desk, way: list[str]) -> None:
    process = await desk.begin("run", *way, "--name", "c", "busybox", *LASTING)
    await says_up(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # the same one, as timeout sends it
    assert await ended(process) == 130
    assert (await desk.until("c", "exited")).exit_code == 130


async def test_timeout_leaves_nothing_running(desk: Desk) -> None:
    words = ("timeout", "600", *WARMBOOT, "run", "-i", "--name", "c", "busybox", *LASTING)
    process = await asyncio.create_subprocess_exec(
        *words,
        env={**os.environ, "WARMBOOT_URL": desk.url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    await says_up(process)
    process.send_signal(signal.SIGALRM)  # its own timer's
    assert await ended(process) == 124
    await desk.until("c", "exited")


async def test_what_ignores_the_signal_is_killed_when_its_time_is_over(desk: Desk) -> None:
    deaf = "trap '' TERM; echo up; sleep 1000"
    words = ("--rm", "-i", "--stop-timeout", "1", "--name", "c", "busybox", "sh", "-c", deaf)
    process = await desk.begin("run", *words)
    await says_up(process)
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 137
    assert await desk.names() == []


@pytest.mark.parametrize("rm", [True, False])
async def test_a_second_signal_does_not_wait(desk: Desk, rm: bool) -> None:
    deaf = "trap '' INT; echo up; sleep 1000"
    words = (*(["--rm"] if rm else []), "--stop-timeout", "600", "--name", "c", "busybox")
    process = await desk.begin("run", *words, "sh", "-c", deaf)
    await says_up(process)
    process.send_signal(signal.SIGINT)
    await asyncio.sleep(SAME_S + 2)  # sooner, it would be the same one
    process.send_signal(signal.SIGINT)
    assert await ended(process) == 130
    assert await desk.names() == ([] if rm else ["c"])


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_a_killed_client_leaves_rm_to_the_manager(desk: Desk, way: list[str]) -> None:
    process = await desk.begin("run", *way, "--rm", "--name", "c", "busybox", *LASTING)
    running = await desk.until("c", "running")
    process.kill()
    await process.wait()
    await desk.until("c", "running")
    await desk.client.containers.kill(running.id)
    await desk.until_nothing()


async def test_a_signal_that_is_ignored_stays_ignored(desk: Desk) -> None:
    words = [*WARMBOOT, "run", "-i", "--rm", "--name", "c", "busybox", "cat"]
    code = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    code += "os.execv(sys.argv[1], sys.argv[1:])"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *words),
        env={**os.environ, "WARMBOOT_URL": desk.url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b"up\n")
    await says_up(process)
    process.send_signal(signal.SIGHUP)
    process.stdin.write(b"up\n")
    await says_up(process)  # after the signal, too
    out, _ = await asyncio.wait_for(process.communicate(b"done\n"), 90)
    assert (out, process.returncode) == (b"done\n", 0)


async def test_attach_stays_and_passes_signals_on(desk: Desk) -> None:
    await desk.type("run", "-d", "-i", "--name", "c", "busybox", "sh", "-c", "echo early; cat")
    process = await desk.begin("attach", "c")
    assert process.stdin is not None
    process.stdin.write(b"up\n")
    await says_up(process)
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 143
    await desk.until("c", "exited")
    code, _, err = await desk.type("attach", "c")
    assert code == 1
    assert "warmboot start c" in err


# -- before it runs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ([], signal.SIGINT),
        (["--rm"], signal.SIGTERM),
        (["-i"], signal.SIGHUP),
        (["-d"], signal.SIGTERM),
    ],
)
async def test_a_signal_before_it_runs_undoes_it(
    desk: Desk, words: list[str], number: signal.Signals
) -> None:
    desk.place.set(pull_s=5.0)
    process = await desk.begin("run", *words, "--name", "c", "busybox", "sleep", "1000")
    await desk.until("c", "creating")
    process.send_signal(number)
    assert await ended(process) == 128 + number
    assert await desk.names() == []


async def test_a_signal_while_it_is_booted_stops_it_as_soon_as_it_runs(desk: Desk) -> None:
    desk.place.set(pull_s=2.0)
    await desk.type("create", "--name", "c", "busybox", "sleep", "1000")
    process = await desk.begin("start", "-a", "c")
    await desk.until("c", "creating")
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 143
    assert (await desk.until("c", "exited")).exit_code == 143


# -- what could not be started ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "program", "code"),
    [([], "missing", 127), (["-d"], "/missing/x", 127), (["--rm", "-i"], "/etc/passwd", 126)],
)
async def test_a_command_that_cannot_be_executed_has_dockers_exit_codes(
    desk: Desk, words: list[str], program: str, code: int
) -> None:
    ran, out, err = await desk.type("run", *words, "--name", "c", "busybox", program)
    assert (ran, out) == (code, "")
    assert program in err
    assert await desk.names() == []


async def test_other_failures_are_125_and_the_name_is_free_again(desk: Desk) -> None:
    for _ in range(2):
        code, _, err = await desk.type("run", "--name", "web", "missing/image")
        assert code == 125
        assert "no image missing/image" in err
    assert (await desk.type("run", "--rm", "--name", "web", "busybox", "echo", "hi"))[1] == "hi\n"


async def test_a_failed_one_is_kept_for_a_look(desk: Desk) -> None:
    code, _, _ = await desk.type("run", "--keep", "--name", "web", "busybox", "missing")
    assert code == 127
    _, shown, _ = await desk.type("inspect", "--json", "web")
    assert json.loads(shown)[0]["error"]["code"] == "command-not-found"


async def test_a_failed_one_that_nobody_waited_for_is_removed_if_it_was_to_be(desk: Desk) -> None:
    await desk.client.containers.create(
        image="busybox", name="web", command=["missing"], auto_remove=True
    )
    assert (await desk.client.containers.wait("web", "running")).state == "failed"
    await desk.until_nothing()


# -- options ---------------------------------------------------------------------------------------


async def test_user_folder_host_name_and_environment_arrive(desk: Desk) -> None:
    script = "whoami; pwd; hostname; printenv HOSTNAME"
    words = ("-u", "1000:1000", "-w", "/data", "-h", "box", "busybox", "sh", "-c", script)
    assert (await desk.type("run", "--rm", *words))[1] == "1000:1000\n/data\nbox\nbox\n"
    await desk.type("run", "-d", "--name", "c", "busybox", "sleep", "1000")
    code, out, _ = await desk.type("exec", "-u", "me", "-w", "/tmp", "c", "sh", "-c", "whoami; pwd")
    assert (code, out) == (0, "me\n/tmp\n")
    assert (await desk.type("exec", "-d", "c", "sh", "-c", "echo unseen"))[:2] == (0, "")
    assert (await desk.type("exec", "c", "missing"))[0] == 127


async def test_the_stop_signal_is_the_containers_own(desk: Desk) -> None:
    await desk.type("run", "-d", "--name", "c", "--stop-signal", "USR1", "busybox", "sleep", "1000")
    await desk.type("stop", "c")
    assert (await desk.until("c", "exited")).exit_code == 128 + signal.SIGUSR1
    await desk.client.containers.start("c")
    await desk.type("stop", "-s", "INT", "c")
    assert (await desk.until("c", "exited")).exit_code == 130
    await desk.client.containers.start("c")
    assert (await desk.type("kill", "c"))[0] == 0
    assert (await desk.client.containers.get("c")).exit_code == 137


async def test_logs_of_a_time(desk: Desk) -> None:
    script = "echo one; sleep 1; echo two"
    await desk.type("run", "--name", "c", "busybox", "sh", "-c", script)
    _, out, _ = await desk.type("logs", "-t", "c")
    first, second = (line.split()[0] for line in out.splitlines())
    assert (await desk.type("logs", "--since", second, "c"))[1] == "two\n"
    assert (await desk.type("logs", "--until", first, "c"))[1] == "one\n"
    assert (await desk.type("logs", "--since", "1h", "c"))[1] == "one\ntwo\n"

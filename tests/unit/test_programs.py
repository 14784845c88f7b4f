"""Programs are run to their end, in bounded time, and are gone when their caller is."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable
from pathlib import Path

import anyio
import pytest
from tests.support.eventually import until

from warmboot.hypervisors.firecracker import Firecracker, FirecrackerConfig
from warmboot.hypervisors.stamp import stamp_of
from warmboot.model.errors import HostError, NetworkError, NotSupported, WarmbootError
from warmboot.system import programs
from warmboot.system.programs import find_program, look_up, run_program

# It says its pid, and at its end that it had time to clean up.
CLEANS_UP = """
trap 'echo cleaned >>"$0"; exit 0' TERM
echo $$
while :; do sleep 0.05; done
"""
IGNORES_US = """
trap '' TERM
echo $$
while :; do sleep 0.05; done
"""


class Told:
    """Lines as they come, to wait for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._came = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._came.set()

    async def first(self) -> str:
        async with asyncio.timeout(60):
            await self._came.wait()
        return self.lines[0]


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def begun(script: str, *arguments: str | Path) -> tuple[asyncio.Task[object], int]:
    told = Told()
    running = asyncio.create_task(run_program("sh", "-c", script, *arguments, on_line=told))
    return running, int(await told.first())


async def test_output_and_errors_come_in_their_order() -> None:
    ended = await run_program("sh", "-c", "echo one; echo two >&2; echo three")
    assert (ended.code, ended.output, ended.errors) == (0, "one\ntwo\nthree\n", "")


async def test_output_and_errors_can_be_had_apart() -> None:
    ended = await run_program("sh", "-c", "echo one; echo two >&2", errors_apart=True)
    assert (ended.output, ended.errors) == ("one\n", "two\n")


async def test_bytes_go_in_and_come_out_as_they_are() -> None:
    content = os.urandom(3 << 20)  # more than any pipe holds
    ended = await run_program("cat", stdin=content)
    assert ended.output_bytes == content


async def test_what_a_program_does_not_read_is_no_failure() -> None:
    assert (await run_program("true", stdin=bytes(3 << 20))).ok


async def test_without_input_there_is_an_end_of_it() -> None:
    assert (await run_program("cat")).output == ""


async def test_each_line_is_told_as_it_comes() -> None:
    told = Told()
    ended = await run_program("printf", "one\\r\\n\\ntwo \\nno end", on_line=told)
    assert told.lines == ["one", "", "two", "no end"]
    assert ended.output == "one\r\n\ntwo \nno end"


async def test_an_error_of_the_callback_ends_the_program() -> None:
    pids = []

    def refuse(line: str) -> None:
        pids.append(int(line))
        raise NetworkError("enough")

    with pytest.raises(NetworkError, match="enough"):
        await run_program("sh", "-c", CLEANS_UP, "/dev/null", on_line=refuse)
    assert gone(pids[0])


async def test_surroundings_are_the_callers_and_what_is_added(tmp_path: Path) -> None:
    ended = await run_program(
        "sh", "-c", 'echo "$ADDED $HOME"; pwd', environment={"ADDED": "more"}, cwd=tmp_path
    )
    assert ended.output == f"more {os.environ['HOME']}\n{tmp_path}\n"


async def test_a_session_of_its_own() -> None:
    code = "import os; print(os.getsid(0) == os.getpid())"
    for new, said in ((True, "True\n"), (False, "False\n")):
        assert (await run_program(sys.executable, "-c", code, new_session=new)).output == said


async def test_a_program_that_fails_is_quoted() -> None:
    with pytest.raises(HostError, match="code 3") as caught:
        await run_program("sh", "-c", "echo the reason >&2; exit 3")
    assert caught.value.details == "the reason"
    assert "exit 3" in caught.value.resolution


async def test_what_is_not_checked_may_fail() -> None:
    ended = await run_program("sh", "-c", "exit 3", check=False)
    assert (ended.code, ended.ok) == (3, False)


async def test_a_signal_is_a_code() -> None:
    assert (await run_program("sh", "-c", "kill -9 $$", check=False)).code == -signal.SIGKILL


async def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(HostError, match="longer than"):
        await run_program("sleep", "60", timeout_s=0.2)


async def test_a_cancelled_program_has_time_to_clean_up(tmp_path: Path) -> None:
    running, pid = await begun(CLEANS_UP, tmp_path / "said")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gone(pid)
    assert (tmp_path / "said").read_text() == "cleaned\n"


async def test_a_second_cancellation_leaves_it_time_as_well(tmp_path: Path) -> None:
    running, pid = await begun(CLEANS_UP, tmp_path / "said")
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gone(pid)
    assert (tmp_path / "said").read_text() == "cleaned\n"


async def test_what_does_not_end_kindly_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_STOP_TIMEOUT_S", 0.1)
    running, pid = await begun(IGNORES_US)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gone(pid)


async def test_cancelled_before_it_began_nothing_is_started(tmp_path: Path) -> None:
    running = asyncio.create_task(run_program("touch", tmp_path / "started"))
    running.cancel()
    await asyncio.wait({running})
    assert list(tmp_path.iterdir()) == []


async def test_no_descriptor_is_left() -> None:
    def opened() -> set[str]:
        return {path.name for path in Path("/proc/self/fd").iterdir()}

    await run_program("true")  # the loop's own, of the first time
    before = opened()
    await run_program("cat", stdin=b"x", errors_apart=True)
    with pytest.raises(HostError, match="longer than"):
        # Its child holds the pipe when it is gone.
        await run_program("sh", "-c", "sleep 2 & exec sleep 60", timeout_s=0.5)
    await until(lambda: opened() <= before)  # a pipe is closed some turns of the loop later


@pytest.mark.parametrize("name", ["nft", "setpriv", "no-such-program"])
async def test_a_missing_program_names_its_package(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = {"nft": "nftables", "setpriv": "util-linux"}.get(name, name)
    monkeypatch.setattr(programs, "_SBIN", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSupported, match=f"{name} is not installed") as caught:
        find_program(name)
    assert caught.value.resolution.endswith(f"apt-get install {package}")
    with pytest.raises(NotSupported, match="not installed"):
        await run_program(name)


async def test_a_path_that_is_no_program_is_said(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for path in (tmp_path / "text", tmp_path / "none"):
        with pytest.raises(NotSupported, match="not there or not executable"):
            await run_program(path)


async def test_programs_of_root_are_found_without_a_path_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_program("mke2fs").name == "mke2fs"


def run_missing() -> Awaitable[object]:
    return run_program("no-such-program", failure=NetworkError)


def run_failing() -> Awaitable[object]:
    return run_program("false", failure=NetworkError)


def run_hanging() -> Awaitable[object]:
    return run_program("sleep", "60", timeout_s=0.1, failure=NetworkError)


@pytest.mark.parametrize("run", [run_missing, run_failing, run_hanging])
async def test_the_caller_chooses_the_error(run: type[Awaitable[object]]) -> None:
    with pytest.raises(WarmbootError) as caught:
        await run()
    assert type(caught.value) is NetworkError


async def test_what_the_kernel_refuses_to_start_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(anyio, "open_process", refuse)
    with pytest.raises(HostError, match="cannot be started") as caught:
        await run_program("true")
    assert "Too many open files" in caught.value.details
    assert caught.value.resolution


def test_what_make_setup_has_put_beside_us_is_found_whatever_the_path_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert look_up("ruff") == f"{sys.prefix}/bin/ruff"
    assert stamp_of("ruff") is not None
    assert look_up("mke2fs") == "/usr/sbin/mke2fs"
    assert look_up("no-such-program") is None


async def test_doctor_finds_the_hypervisors_that_are_installed_whatever_the_path_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`.venv/bin/warmboot doctor`, as it is after `make setup`."""
    monkeypatch.setattr(programs, "_OURS", str(tmp_path))
    program = tmp_path / "firecracker"
    program.write_text("#!/bin/sh\necho 'Firecracker v1.12.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    probe = await Firecracker(FirecrackerConfig()).probe()
    assert [p.brief for p in probe.problems if "not installed" in p.brief] == []

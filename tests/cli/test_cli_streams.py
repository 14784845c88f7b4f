"""Streams are bytes, and a session ends as its program does: with a manager on simulated VMs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
from tests.support.desks import WARMBOOT, Desk, desks
from tests.support.eventually import eventually

from warmboot.client import sessions

pytestmark = pytest.mark.slow  # as a whole: each is a process or several

EVERY_BYTE = bytes((*range(1, 256), 0))
OCTAL = "".join(f"\\{byte:03o}" for byte in EVERY_BYTE)
LIMIT_S = 60.0


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with desks() as one:
        yield one


async def end_of(process: asyncio.subprocess.Process) -> tuple[int | None, bytes, bytes]:
    """Its code, its output and its errors; what it reads stays as it is."""
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(LIMIT_S):
        out, err, code = await asyncio.gather(
            process.stdout.read(), process.stderr.read(), process.wait()
        )
    return code, out, err


async def fed_by(desk: Desk, command: str, *words: str) -> tuple[int | None, bytes, bytes]:
    """``command | warmboot words…``"""
    reader, writer = os.pipe()
    feeding = await asyncio.create_subprocess_exec(
        "sh", "-c", command, stdout=writer, stderr=asyncio.subprocess.DEVNULL
    )
    os.close(writer)
    process = await desk.begin(*words, stdin=reader)
    os.close(reader)
    try:
        return await end_of(process)
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(feeding.wait(), LIMIT_S)


# -- bytes -----------------------------------------------------------------------------------------


async def test_run_passes_every_byte_on_as_it_was(desk: Desk) -> None:
    process = await desk.begin("run", "--cold", "--rm", "busybox", "printf", OCTAL * 70)
    assert await end_of(process) == (0, EVERY_BYTE * 70, b"")


async def test_logs_are_the_same_bytes(desk: Desk) -> None:
    await desk.type("run", "-d", "--name", "c", "busybox", "printf", OCTAL)
    await desk.until("c", "exited")
    assert await end_of(await desk.begin("logs", "c")) == (0, EVERY_BYTE, b"")


async def test_what_goes_in_comes_out_and_its_end_too(desk: Desk) -> None:
    process = await desk.begin("run", "-i", "--cold", "--rm", "busybox", "cat")
    out, err = await asyncio.wait_for(process.communicate(EVERY_BYTE * 1000), LIMIT_S)
    assert (process.returncode, out, err) == (0, EVERY_BYTE * 1000, b"")


async def test_a_late_reader_gets_more_than_the_log_keeps(desk: Desk) -> None:
    process = await desk.begin("run", "--cold", "--name", "c", "busybox", "seq", "30000")
    await desk.until("c", "running", "exited")
    code, out, err = await end_of(process)
    assert (code, err) == (0, b"")
    assert out.splitlines() == [b"%d" % number for number in range(1, 30001)]


# -- ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["true"], ["exit", "7"], ["sh", "-c", "echo hi; exit 7"]])
async def test_a_program_that_ends_at_once_ends_run_i_though_its_input_stays_open(
    desk: Desk, words: list[str]
) -> None:
    process = await desk.begin("run", "-i", "--cold", "--rm", "busybox", *words)
    code, out, err = await end_of(process)
    assert (code, out, err) == (0 if words == ["true"] else 7, b"hi\n" * (words[0] == "sh"), b"")
    assert await desk.names() == []


@pytest.mark.parametrize("way", [[], ["-i"]])
async def test_a_program_that_is_not_there_is_told_and_nothing_is_left(
    desk: Desk, way: list[str]
) -> None:
    code, out, err = await end_of(await desk.begin("run", *way, "--cold", "busybox", "missing"))
    assert (code, out) == (127, b"")
    assert b"no program 'missing'" in err
    assert await desk.names() == []


async def test_an_empty_program_is_127_and_leaves_nothing(desk: Desk) -> None:
    code, out, err = await end_of(await desk.begin("run", "--rm", "--cold", "busybox", ""))
    assert (code, out) == (127, b"")
    assert b"the command is empty" in err
    await desk.until_nothing()


@pytest.mark.parametrize(("program", "code"), [("missing", 127), ("/etc/hosts", 126)])
async def test_exec_d_tells_what_could_not_be_executed(desk: Desk, program: str, code: int) -> None:
    await desk.type("run", "-d", "--cold", "--name", "c", "busybox", "sleep", "1000")
    left, out, err = await desk.type("exec", "-d", "c", program)
    assert (left, out) == (code, "")
    assert err.startswith("error: ")
    assert f"'{program}'" in err


async def test_attaching_ends_with_a_program_that_ends_meanwhile(desk: Desk) -> None:
    """Docker lets anybody attach to what has ended, and says nothing then."""
    await desk.type("run", "-d", "-i", "--name", "c", "busybox", "sh", "-c", "echo hi; exit 7")
    await desk.until("c", "exited")
    async with asyncio.timeout(LIMIT_S), desk.client.containers.attach("c") as session:
        assert b"".join([chunk.data async for chunk in session]) == b"hi\n"
        assert session.exit_code == 7


async def test_who_is_with_a_container_that_is_removed_has_137_as_of_a_kill(desk: Desk) -> None:
    script = ("sh", "-c", "echo up; sleep 1000")
    await desk.type("run", "-d", "--cold", "--name", "c", "busybox", "sleep", "1000")
    run = await desk.begin("run", "--cold", "--name", "r", "busybox", *script)
    exec_ = await desk.begin("exec", "c", *script)
    for process in (run, exec_):
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), LIMIT_S) == b"up\n"
    waits = [asyncio.create_task(desk.client.containers.wait(name)) for name in ("r", "c")]
    assert await desk.type("rm", "-f", "r", "c") == (0, "r\nc\n", "")
    assert await end_of(run) == (137, b"", b"")
    assert await end_of(exec_) == (137, b"", b"")
    assert [(await wait).exit_code for wait in waits] == [137, 137]
    # Also for who asks afterwards, and as docker prints it.
    assert await desk.type("wait", "r", "c") == (0, "137\n137\n", "")


async def test_endless_input_ends_with_the_program_that_reads_a_line_of_it(desk: Desk) -> None:
    await desk.type("run", "-d", "--name", "c", "busybox", "sleep", "1000")
    words = ("exec", "-i", "c", "head", "-n", "1")
    assert await fed_by(desk, "yes", *words) == (0, b"y\n", b"")


@pytest.mark.parametrize("way", [["exec", "-i", "c"], ["run", "-i", "--cold", "--rm", "busybox"]])
async def test_input_that_nobody_reads_is_no_error(desk: Desk, way: list[str]) -> None:
    await desk.type("run", "-d", "--name", "c", "busybox", "sleep", "1000")
    words = (*way, "sh", "-c", "echo out; exit 3")
    assert await fed_by(desk, "head -c 200M /dev/zero", *words) == (3, b"out\n", b"")


async def test_a_signal_ends_one_that_does_not_read_its_input(desk: Desk) -> None:
    process = await desk.begin(
        "run", "-i", "--cold", "--rm", "busybox", "sh", "-c", "echo up; sleep 1000"
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(bytes(16 << 20))
    assert await asyncio.wait_for(process.stdout.readline(), LIMIT_S) == b"up\n"
    process.send_signal(signal.SIGTERM)
    assert (await end_of(process))[0] == 143
    assert await desk.names() == []


async def test_a_signal_ends_one_whose_output_nobody_reads(desk: Desk) -> None:
    process = await desk.begin("run", "--cold", "--name", "c", "busybox", "yes")
    await desk.until("c", "running")
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.read(2), LIMIT_S) == b"y\n"
    process.send_signal(signal.SIGTERM)
    assert (await desk.until("c", "exited")).exit_code == 143
    assert (await end_of(process))[0] == 143


# -- readers that go -------------------------------------------------------------------------------


async def left_after_a_line(desk: Desk, *words: str) -> int | None:
    """``warmboot words… | head -n 1``, its exit code; whatever it does without end, it ends."""
    reader, writer = os.pipe()
    process = await desk.begin(*words, stdout=writer)
    os.close(writer)
    loop = asyncio.get_running_loop()
    try:
        read = await asyncio.wait_for(loop.run_in_executor(None, os.read, reader, 2), LIMIT_S)
        assert read == b"y\n"
        os.close(reader)
        async with asyncio.timeout(LIMIT_S):
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()


@pytest.mark.parametrize(
    "words",
    [["exec", "c", "yes"], ["exec", "-i", "c", "yes"], ["attach", "y"], ["logs", "-f", "y"]],
)
async def test_who_is_not_read_any_more_ends_as_of_sigpipe(desk: Desk, words: list[str]) -> None:
    name = words[-1] if words[-1] == "y" else "c"
    program = ["yes"] if name == "y" else ["sleep", "1000"]
    await desk.type("run", "-d", "--cold", "--name", name, "busybox", *program)
    for _ in range(2):  # and leaves nothing that the next one would wait for
        assert await left_after_a_line(desk, *words) == 141
    assert (await desk.until(name, "running", "exited")).state == "running"


async def test_run_that_is_not_read_any_more_leaves_its_container(desk: Desk) -> None:
    assert await left_after_a_line(desk, "run", "--cold", "--name", "c", "busybox", "yes") == 141
    assert (await desk.until("c", "running", "exited")).state == "running"


async def test_what_is_left_in_the_middle_of_its_output_waits_for_no_goodbye(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CLOSE_TIMEOUT_S", 10 * LIMIT_S)
    await desk.type("run", "-d", "--cold", "--name", "c", "busybox", "sleep", "1000")
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(BrokenPipeError):
            async with desk.client.containers.exec("c", ["yes"]) as session:
                async for _ in session:
                    await asyncio.sleep(0.1)  # more has come than is taken
                    raise BrokenPipeError


@pytest.mark.parametrize("words", [["ps"], ["logs", "c"], ["inspect", "c", "--json"]])
async def test_output_of_any_command_that_nobody_reads_ends_as_of_sigpipe(
    desk: Desk, words: list[str]
) -> None:
    await desk.type("run", "-d", "--cold", "--name", "c", "busybox", "echo", "hi")
    await desk.until("c", "exited")
    reader, writer = os.pipe()
    os.close(reader)
    process = await desk.begin(*words, stdout=writer)
    os.close(writer)
    _, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert (process.returncode, err) == (141, b"")


async def with_a_full(descriptor: int, desk: Desk, *words: str) -> tuple[int | None, bytes, bytes]:
    """``warmboot words… 1>/dev/full`` or ``2>/dev/full``; its input stays open."""
    script = f'exec "$@" {descriptor}>/dev/full'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", script, "sh", *WARMBOOT, *words),
        env=desk.env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return await end_of(process)


UNWRITTEN = b"error: the output could not be written\n  why: No space left on device\n"


@pytest.mark.parametrize(
    "words",
    [
        *(
            (*words, "sh", "-c", f"echo out; echo oops >&2; {end}")
            for words in (("run", "--cold", "--rm", "busybox"), ("exec", "c"))
            for end in ("exit 3", "sleep 1000")
        ),
        ("logs", "c"),
        ("logs", "-f", "c"),
    ],
)
async def test_a_programs_output_that_cannot_be_written_is_1_and_told_at_once_as_dockers(
    desk: Desk, words: tuple[str, ...]
) -> None:
    script = "echo out; echo oops >&2; sleep 1000"
    await desk.type("run", "-d", "--cold", "--name", "c", "busybox", "sh", "-c", script)

    async def said() -> bool:
        chunks = [chunk.data async for chunk in desk.client.containers.logs("c")]
        return len(b"".join(chunks)) == len(b"out\noops\n")

    await eventually(said, "its log has both")
    assert await with_a_full(1, desk, *words) == (1, b"", UNWRITTEN)
    assert await with_a_full(2, desk, *words) == (1, b"out\n", b"")


@pytest.mark.parametrize(("descriptor", "told"), [(1, UNWRITTEN), (2, b"")])
async def test_attach_ends_with_1_when_its_output_cannot_be_written(
    desk: Desk, descriptor: int, told: bytes
) -> None:
    await desk.type("run", "-d", "-i", "--cold", "--name", "c", "busybox", "sh")
    attached = asyncio.create_task(with_a_full(descriptor, desk, "attach", "c"))
    async with desk.client.containers.attach("c") as session:
        while not attached.done():
            await session.write(b"echo out; echo oops >&2\n")
            await asyncio.wait({attached}, timeout=0.1)
    code, out, err = await attached
    assert (code, out.replace(b"out\n", b"")) == (1, b"")
    assert err.replace(b"oops\n", b"") == told


async def test_what_can_be_written_leaves_the_programs_exit_code(desk: Desk) -> None:
    run = ("run", "--cold", "--rm", "busybox", "sh", "-c")
    assert await with_a_full(2, desk, *run, "echo out; exit 3") == (3, b"out\n", b"")
    assert await with_a_full(1, desk, *run, "echo oops >&2; exit 3") == (3, b"", b"oops\n")

"""Logs, execs and attached sessions."""

from __future__ import annotations

import asyncio
import os
import re
import signal

import pytest
from tests.support.managers import Manager
from typing_extensions import override

from warmboot.manager.containers import first_attach, watch_container
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.protocols import Session, Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import Conflict, NotFound, WarmbootError
from warmboot.model.sessions import ExecSpec, Stream


async def read(session: Session) -> dict[Stream, bytes]:
    output = {Stream.STDOUT: b"", Stream.STDERR: b""}
    async with asyncio.timeout(60):
        async for chunk in session:
            output[chunk.stream] += chunk.data
    return output


# -- logs ------------------------------------------------------------------------------------------


async def test_logs_tell_stdout_from_stderr(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "echo out; echo err >&2")
    await manager.wait("web", Until.EXITED)
    chunks = [chunk async for chunk in manager.containers.logs("web")]
    assert [(c.stream, c.data) for c in chunks] == [
        (Stream.STDOUT, b"out\n"),
        (Stream.STDERR, b"err\n"),
    ]


async def test_logs_follow_until_the_end(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "echo one; sleep 0.3; echo two")
    async with asyncio.timeout(60):
        assert await manager.output("web", follow=True) == b"one\ntwo\n"
    assert (await manager.wait("web", Until.EXITED)).exit_code == 0


async def test_logs_of_a_running_container_end_when_not_followed(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "echo one; sleep 100")

    async def said() -> bool:
        async with asyncio.timeout(60):
            return await manager.output("web") == b"one\n"

    await manager.until(said, "what it has said so far")


async def test_the_tail_of_the_logs(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "echo one; echo two; echo three")
    await manager.wait("web", Until.EXITED)
    assert await manager.output("web", tail=2) == b"two\nthree\n"
    assert re.fullmatch(rb"\d{4}-\S+ three\n", await manager.output("web", tail=1, timestamps=True))


async def test_the_tail_of_the_logs_is_a_number_of_lines_however_they_were_written(
    manager: Manager,
) -> None:
    script = (
        r"printf 'one\ntwo\nthr'; printf 'ee\n'; echo oops >&2; echo four; printf fi; printf ve"
    )
    await manager.run("web", "sh", "-c", script)
    await manager.wait("web", Until.EXITED)
    lines = [b"one\n", b"two\n", b"three\n", b"oops\n", b"four\n", b"five"]
    for count in range(8):
        last = lines[-count:] if count else []
        assert await manager.output("web", tail=count) == b"".join(last)
    stamped = await manager.output("web", tail=4, timestamps=True)
    assert re.sub(rb"\d{4}-\S+Z ", b"> ", stamped) == b"> three\n> oops\n> four\n> five"


async def test_logs_wait_for_a_container_that_is_being_created(manager: Manager) -> None:
    manager.lab.set(docker_s=0.3)
    await manager.create("web", "echo", "hello")
    assert await manager.output("web", follow=True) == b"hello\n"


async def test_logs_of_one_that_never_ran_are_a_conflict(manager: Manager) -> None:
    await manager.run("web", image="missing/image")
    with pytest.raises(Conflict, match="no process"):
        await manager.output("web")


async def test_following_ends_when_the_container_is_removed(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "echo out; sleep 1000")
    logs = manager.containers.logs("web", follow=True)
    assert (await anext(aiter(logs))).data == b"out\n"
    following = asyncio.ensure_future(anext(aiter(logs), None))
    await asyncio.sleep(0)
    await manager.containers.delete("web", force=True)
    assert await asyncio.wait_for(following, 60) is None


async def test_following_ends_when_the_vm_dies(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "echo one; sleep 100")
    logs = aiter(manager.containers.logs("web", follow=True))
    assert (await anext(logs)).data == b"one\n"
    following = asyncio.ensure_future(anext(logs, None))
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    async with asyncio.timeout(60):
        (ended,) = await asyncio.gather(following, return_exceptions=True)
    assert ended is None or isinstance(ended, WarmbootError)


# -- sessions --------------------------------------------------------------------------------------


async def test_an_exec_runs_in_the_container(manager: Manager) -> None:
    await manager.run()
    command = ("sh", "-c", "echo out; echo err >&2; exit 4")
    session = await manager.containers.exec("web", ExecSpec(command))
    output = await read(session)
    assert output == {Stream.STDOUT: b"out\n", Stream.STDERR: b"err\n"}
    assert await session.exit_code() == 4
    await session.close()
    assert (await manager.containers.get("web")).state is ContainerState.RUNNING


async def test_an_exec_takes_input_until_its_end(manager: Manager) -> None:
    await manager.run()
    session = await manager.containers.exec("web", ExecSpec(("cat",), stdin=True))
    await session.write(b"hello\n")
    await session.write_eof()
    assert (await read(session))[Stream.STDOUT] == b"hello\n"
    assert await session.exit_code() == 0
    await session.close()


async def test_an_exec_with_a_terminal(manager: Manager) -> None:
    await manager.run()
    session = await manager.containers.exec("web", ExecSpec(("sh",), tty=True, stdin=True))
    await session.resize(40, 100)
    await session.write(b"echo hi; exit 2\r")
    assert b"\nhi\r\n" in (await read(session))[Stream.STDOUT]
    assert await session.exit_code() == 2
    await session.close()


async def test_an_exec_needs_a_container_that_runs(manager: Manager) -> None:
    await manager.run("web", "true")
    await manager.wait("web", Until.EXITED)
    with pytest.raises(Conflict, match="is not running"):
        await manager.containers.exec("web", ExecSpec(("true",)))
    with pytest.raises(NotFound):
        await manager.containers.exec("nobody", ExecSpec(("true",)))


async def test_attaching_gives_all_output_and_the_exit_code(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "echo one; sleep 0.3; echo two; exit 6")
    session = await manager.containers.attach("web")
    assert (await read(session))[Stream.STDOUT] == b"one\ntwo\n"
    await session.close()
    assert (await manager.wait("web", Until.EXITED)).exit_code == 6


@pytest.mark.parametrize("tty", [True, False])
async def test_who_leaves_a_terminal_ends_nothing_as_with_docker(
    manager: Manager, tty: bool
) -> None:
    await manager.run("web", "cat", tty=tty, stdin_open=True)
    session = await manager.containers.attach("web")
    await session.write(b"one\r\n")
    assert b"one" in (await anext(aiter(session))).data
    await session.close()
    if not tty:  # then its input ends with it
        assert (await manager.wait("web", Until.EXITED)).exit_code == 0
        return
    again = await manager.containers.attach("web", logs=False)
    await again.write(b"two\r\n")
    assert b"two" in (await anext(aiter(again))).data
    await again.close()
    assert (await manager.containers.get("web")).state is ContainerState.RUNNING


async def test_the_log_has_every_byte_as_it_was(manager: Manager) -> None:
    octal = "".join(f"\\{byte:03o}" for byte in (*range(1, 256), 0)) * 70
    await manager.run("web", "printf", octal)
    await manager.wait("web", Until.EXITED)
    assert await manager.output("web") == bytes((*range(1, 256), 0)) * 70


async def test_one_attached_before_the_start_gets_every_byte_as_it_was(manager: Manager) -> None:
    """All bytes there are, whatever they would be as text, on both sides of a 16 KiB border."""
    octal = "".join(f"\\{byte:03o}" for byte in (*range(1, 256), 0)) * 70
    await manager.create("web", "printf", octal, attach=True)
    session = await manager.containers.attach("web")
    output = await read(session)
    assert output == {Stream.STDOUT: bytes((*range(1, 256), 0)) * 70, Stream.STDERR: b""}
    assert await session.exit_code() == 0
    await session.close()


async def test_one_that_nobody_attaches_to_is_started_all_the_same(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_attach, "COMES_WITHIN_S", 0.2)
    await manager.create("web", "echo", "hi", attach=True)
    assert (await manager.wait("web", Until.EXITED)).exit_code == 0
    assert await manager.output("web") == b"hi\n"


async def test_a_client_that_goes_before_the_start_holds_up_nobody(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    come = asyncio.Event()

    class Noted(first_attach.FirstAttach):
        @override
        async def created(self) -> tuple[str, str] | None:
            come.set()
            return await super().created()

    monkeypatch.setattr(first_attach, "FirstAttach", Noted)
    monkeypatch.setattr(first_attach, "COMES_WITHIN_S", 600)
    monkeypatch.setattr(first_attach, "ATTACHED_WITHIN_S", 600)
    manager.lab.set(pull_s=1.0)
    await manager.create("web", "echo", "hi", attach=True)
    attaching = asyncio.create_task(manager.containers.attach("web"))
    await asyncio.wait_for(come.wait(), 60)
    attaching.cancel()
    assert (await manager.wait("web", Until.EXITED)).exit_code == 0


async def test_attaching_to_one_that_could_not_be_started_says_so(manager: Manager) -> None:
    await manager.create("web", image="missing/image", attach=True)
    with pytest.raises(Conflict, match="no process"):
        await manager.containers.attach("web")


async def test_one_started_anew_while_its_failure_is_cleared_away_loses_no_output(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared = asyncio.Event()

    async def collect_released(self: CollectGarbage) -> None:
        await cleared.wait()

    monkeypatch.setattr(CollectGarbage, "collect_released", collect_released)
    monkeypatch.setattr(first_attach, "COMES_WITHIN_S", 600)
    manager.lab.set(fail_boot=True)
    await manager.create("web", "echo", "hi")
    assert (await manager.wait("web", Until.RUNNING)).state is ContainerState.FAILED
    manager.lab.set(fail_boot=False)
    attaching = asyncio.create_task(manager.containers.attach("web", logs=False, start=True))

    async def begun() -> bool:
        return (await manager.containers.get("web")).state is ContainerState.CREATING

    await manager.until(begun, "it is started anew")
    cleared.set()
    session = await asyncio.wait_for(attaching, 60)
    assert (await read(session))[Stream.STDOUT] == b"hi\n"
    await session.close()


async def test_lines_that_come_one_at_a_time_are_passed_on_in_few_pieces(manager: Manager) -> None:
    lines = b"".join(b"%d\n" % number for number in range(1, 8001))
    await manager.create("web", "seq", "8000", attach=True)
    session = await manager.containers.attach("web")
    pieces = [chunk.data async for chunk in session]
    await session.close()
    logged = [chunk.data async for chunk in manager.containers.logs("web")]
    for found in (pieces, logged):
        assert b"".join(found) == lines
        assert len(found) < 800


async def test_attaching_takes_input(manager: Manager) -> None:
    await manager.run("web", "cat", stdin_open=True)
    session = await manager.containers.attach("web")
    await session.write(b"ping\n")
    await session.write_eof()
    assert (await read(session))[Stream.STDOUT] == b"ping\n"
    await session.close()
    assert (await manager.wait("web", Until.EXITED)).exit_code == 0


async def test_attaching_to_one_that_has_ended_gives_what_it_said(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "echo late; exit 3")
    await manager.wait("web", Until.EXITED)
    session = await manager.containers.attach("web")
    assert (await read(session))[Stream.STDOUT] == b"late\n"
    assert await session.exit_code() == 3
    await session.close()


async def test_one_that_is_to_be_removed_waits_for_those_attached(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_container, "READ_GRACE_S", 0.1)
    await manager.run("web", "sh", "-c", "head -n 1; exit 3", stdin_open=True, auto_remove=True)
    session = await manager.containers.attach("web")
    await session.write(b"one\n")
    await manager.wait("web", Until.EXITED)
    await asyncio.sleep(0.3)  # longer than one waits to which nobody is attached
    await _is_read_and_goes(manager, session)


async def test_one_that_is_to_be_removed_waits_for_those_who_come_soon(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_container, "READ_GRACE_S", 600.0)
    await manager.run("web", "sh", "-c", "echo one; exit 3", auto_remove=True)
    await manager.wait("web", Until.EXITED)
    await _is_read_and_goes(manager, await manager.containers.attach("web"))


async def _is_read_and_goes(manager: Manager, session: Session) -> None:
    assert (await read(session))[Stream.STDOUT] == b"one\n"
    assert await session.exit_code() == 3
    await session.close()

    async def gone() -> bool:
        return not await manager.containers.list(all_states=True)

    await manager.until(gone)

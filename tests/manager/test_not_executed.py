"""Programs that the kernel did not execute: the runtime tells that in the place of their output."""

from __future__ import annotations

import pytest
from tests.support.managers import Manager

from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import CommandNotExecutable, CommandNotFound
from warmboot.model.sessions import ExecSpec, LogChunk, Stream

LINE = '{"msg":"exec container process `/app`: Exec format error","level":"error","time":"now"}'
AS_THE_RUNTIME = ("sh", "-c", f"echo '{LINE}' >&2; exit 1")


async def test_a_container_whose_program_is_foreign_has_126_and_a_sentence(
    manager: Manager,
) -> None:
    await manager.run("foreign", *AS_THE_RUNTIME)
    ended = await manager.wait("foreign", Until.EXITED)
    assert (ended.state, ended.exit_code) == (ContainerState.EXITED, 126)
    assert ended.error is not None
    assert ended.error["code"] == "command-not-executable"
    assert "'/app' cannot be executed" in ended.error["brief"]
    said = await manager.output("foreign")
    assert said == b"'/app' cannot be executed: it is no program for this machine\n"
    session = await manager.containers.attach("foreign", logs=True)
    with pytest.raises(CommandNotExecutable, match="'/app'"):
        [chunk async for chunk in session]
    await session.close()


async def test_what_a_program_says_like_the_runtime_is_its_own_if_it_says_more(
    manager: Manager,
) -> None:
    await manager.run("own", "sh", "-c", f"echo '{LINE}' >&2; echo more; exit 1")
    ended = await manager.wait("own", Until.EXITED)
    assert (ended.exit_code, ended.error) == (1, None)


async def test_a_command_that_is_not_there_is_refused_in_an_exec_too(manager: Manager) -> None:
    await manager.run("web")
    for program, error in (("missing", CommandNotFound), ("/etc/hosts", CommandNotExecutable)):
        session = await manager.containers.exec("web", ExecSpec((program,)))
        with pytest.raises(error, match=f"'{program}'"):
            [chunk async for chunk in session]
        await session.close()
        with pytest.raises(error, match=f"'{program}'"):
            await manager.containers.exec("web", ExecSpec((program,), detach=True))


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("script", ["sleep 1000", "yes", "echo 'exec: Not so'; sleep 1000", "true"])
async def test_a_detached_exec_that_was_executed_says_nothing(
    manager: Manager, script: str, tty: bool
) -> None:
    await manager.run("web")
    spec = ExecSpec(("sh", "-c", script), detach=True, tty=tty)
    session = await manager.containers.exec("web", spec)
    assert [chunk async for chunk in session] == []
    assert await session.exit_code() is None
    await session.close()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("exec: No such file or directory", CommandNotFound),
        ("exec: Exec format error", CommandNotExecutable),
        ("exec: Argument list too long", CommandNotExecutable),
    ],
)
async def test_an_exec_of_what_the_kernel_refuses_is_an_error(
    manager: Manager, said: str, error: type[Exception]
) -> None:
    await manager.run("web")
    script = ("sh", "-c", f"echo '{said}' >&2; exit 1")
    session = await manager.containers.exec("web", ExecSpec(script))
    with pytest.raises(error, match="cannot be executed"):
        [chunk async for chunk in session]
    await session.close()
    with pytest.raises(error, match="cannot be executed"):
        await manager.containers.exec("web", ExecSpec(script, detach=True))
    # With another exit code it is the program's own.
    session = await manager.containers.exec("web", ExecSpec((*script[:2], f"echo '{said}'")))
    assert [c async for c in session] == [LogChunk(Stream.STDOUT, f"{said}\n".encode())]
    await session.close()

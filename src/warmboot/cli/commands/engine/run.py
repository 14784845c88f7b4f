"""``warmboot engine run``: an engine for one command, gone when that ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmboot.cli.commands.engine import supervise
from warmboot.cli.commands.engine.docker_logins import Login, RegistryAuth, docker_logins
from warmboot.cli.commands.engine.environment import UNSET, environment_of
from warmboot.cli.commands.engine.start import Folder, HostPort, engine_body, remove, started
from warmboot.cli.commands.options import Cold, Cpus, Disk, Memory, RuntimeImage, TimeToLive
from warmboot.cli.drive import connect, drive, usage
from warmboot.model.errors import (
    CommandNotExecutable,
    CommandNotFound,
    NotFound,
    WarmbootError,
)

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.engines import Engine

OUR_FAILURE = 125
_START_TIME = 19
"""Of proc(5)'s fields after the name."""


def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", show_default=False)],
    cpus: Cpus = None,
    memory: Memory = None,
    disk: Disk = None,
    time_to_live: TimeToLive = None,
    host_port: HostPort = None,
    folder: Folder = None,
    registry_auth: RegistryAuth = None,
    cold: Cold = False,
    runtime: RuntimeImage = None,
) -> None:
    """Run a command on this machine with a Docker engine of its own.

    DOCKER_HOST, and what testcontainers reads, lead to the engine. It is removed when the
    command, or warmboot itself, has ended. If warmboot is killed, the command and all that it has
    started get a SIGTERM, and a SIGKILL 10 s later. Exits with the command's exit code; with 125
    if warmboot itself failed.
    """
    try:
        body, wanted = engine_body(None, cpus, memory, disk, time_to_live, host_port, folder)
    except ValueError as error:
        raise usage(str(error), exit_code=OUR_FAILURE) from None
    body |= {"boot": "cold" if cold else "auto", "auto_remove": True}

    async def work() -> int:
        async with connect() as client:
            logins = await docker_logins(registry_auth)
            engine = await _held(client, body, wanted, runtime, logins)
            try:
                environment = {k: v for k, v in os.environ.items() if k not in UNSET}
                return await _run(command, {**environment, **environment_of(engine)})
            finally:
                await asyncio.shield(remove(client, engine.id))

    raise typer.Exit(drive(work(), _exit_code))


async def _held(
    client: Client,
    body: dict[str, Any],
    wanted: dict[str, int | None],
    runtime: str | None,
    logins: Sequence[Login],
) -> Engine:
    """An engine that goes with this process, however that ends."""
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[_START_TIME]
    holder = {"pid": os.getpid(), "start_time_ticks": int(start)}
    try:
        return await started(client, {**body, "holder": holder}, wanted, runtime, logins=logins)
    except NotFound:
        # In a container we have another pid than for the manager; then it is removed by us alone.
        return await started(client, body, wanted, runtime, logins=logins)


def _exit_code(error: WarmbootError) -> int:
    if isinstance(error, CommandNotExecutable | CommandNotFound):
        return error.exit_code
    return OUR_FAILURE


async def _run(command: list[str], environment: dict[str, str]) -> int:
    """Its exit code. Signals that are meant for us are passed on; it decides how to end."""
    control, far_end = socket.socketpair()
    with control, _passed_on_to(control):
        with far_end:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", supervise.__file__, str(far_end.fileno()), *command),
                env=environment,
                pass_fds=[far_end.fileno()],
                start_new_session=not _has_terminal(),
            )
        try:
            code = await process.wait()
        finally:  # at the end of control it ends the command
            control.shutdown(socket.SHUT_WR)
            await asyncio.shield(process.wait())
        refused = b""
        with contextlib.suppress(ConnectionResetError):  # it ended before it read a signal
            refused = control.recv(16)
        if refused:
            raise _not_executed(command[0], int(refused))
    return 128 - code if code < 0 else code


@contextlib.contextmanager
def _passed_on_to(control: socket.socket) -> Iterator[None]:
    """The signals that tell us to end; those that we were told to ignore stay ignored."""
    loop = asyncio.get_running_loop()

    def pass_on(number: signal.Signals) -> None:
        with contextlib.suppress(OSError):  # it has just ended
            control.send(bytes([number]))

    numbers = [n for n in supervise.PASSED_ON if signal.getsignal(n) is not signal.SIG_IGN]
    for number in numbers:
        loop.add_signal_handler(number, pass_on, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _has_terminal() -> bool:
    """One that controls us, wherever our streams lead: its shell has us as a job."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _not_executed(program: str, number: int) -> WarmbootError:
    if number == errno.ENOENT:
        return CommandNotFound(f"there is no program {program}")
    return CommandNotExecutable(f"{program} cannot be executed", details=os.strerror(number))

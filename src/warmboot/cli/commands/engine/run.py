"""``warmboot engine run``: an engine for one command, gone when that ends."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmboot.cli.commands.engine.docker_logins import Login, RegistryAuth, docker_logins
from warmboot.cli.commands.engine.environment import UNSET, environment_of
from warmboot.cli.commands.engine.start import HostPort, engine_body, remove, started
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
_PR_SET_PDEATHSIG = 1
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", show_default=False)],
    cpus: Cpus = None,
    memory: Memory = None,
    disk: Disk = None,
    time_to_live: TimeToLive = None,
    host_port: HostPort = None,
    registry_auth: RegistryAuth = None,
    cold: Cold = False,
    runtime: RuntimeImage = None,
) -> None:
    """Run a command on this machine with a Docker engine of its own.

    DOCKER_HOST, and what testcontainers reads, lead to the engine. It is removed when the
    command, or warmboot itself, has ended; if warmboot is killed, the command gets a SIGTERM.
    Exits with the command's exit code; with 125 if warmboot itself failed.
    """
    try:
        body, wanted = engine_body(None, cpus, memory, disk, time_to_live, host_port)
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


def _ends_with(parent: int) -> Callable[[], None]:
    """For the child: it gets a SIGTERM when its parent is killed, which has no time to send one."""
    prctl = ctypes.CDLL(None).prctl  # looked up here: little may be done between fork and exec

    def follow() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was gone before
            os.kill(os.getpid(), signal.SIGTERM)

    return follow


def _exit_code(error: WarmbootError) -> int:
    if isinstance(error, CommandNotExecutable | CommandNotFound):
        return error.exit_code
    return OUR_FAILURE


async def _run(command: list[str], environment: dict[str, str]) -> int:
    """Its exit code. Signals that are meant for us are passed on; it decides how to end."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, preexec_fn=_ends_with(os.getpid())
        )
    except FileNotFoundError:
        raise CommandNotFound(f"there is no program {command[0]}") from None
    except PermissionError as error:
        raise CommandNotExecutable(
            f"{command[0]} cannot be executed", details=str(error)
        ) from error
    loop = asyncio.get_running_loop()

    def pass_on(number: signal.Signals) -> None:
        if number is signal.SIGINT and os.isatty(0):
            return  # a terminal sends it to the command itself
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    for number in _PASSED_ON:
        loop.add_signal_handler(number, pass_on, number)
    try:
        code = await process.wait()
    finally:
        for number in _PASSED_ON:
            loop.remove_signal_handler(number)
    return 128 - code if code < 0 else code

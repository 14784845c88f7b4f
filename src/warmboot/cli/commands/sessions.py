"""``warmboot exec`` and ``warmboot attach``: a session with a process in a container."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

import typer

from warmboot.cli.commands.options import Env, EnvFile, Interactive, Tty, User, Workdir
from warmboot.cli.drive import command_exit_code, connect, drive, usage
from warmboot.cli.parsing import parse_environment, parse_folder
from warmboot.cli.refs import RunningRef
from warmboot.cli.terminal.attach import carry, hangup_ends_us, has_terminal
from warmboot.cli.terminal.foreground import Stay, killed
from warmboot.cli.terminal.signals import Signals
from warmboot.cli.terminal.terminal import Detached, terminal_size
from warmboot.model.conventions.program_start import assignments
from warmboot.model.errors import Conflict, Unavailable

_TOLD = ("running", "paused", "parked")
"""Why one that stands still cannot be attached to is told by the manager."""


def exec_(
    ref: RunningRef,
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", help="the command and its arguments", show_default=False),
    ],
    interactive: Interactive = False,
    tty: Tty = False,
    env: Env = None,
    env_file: EnvFile = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="do not wait for the command")
    ] = False,
    user: User = "",
    workdir: Workdir = "",
) -> None:
    """Run a command in a running container, and exit with its exit code."""
    if interactive and tty and not detach and not has_terminal():
        raise usage("the input is not a terminal; leave out -t", "-t")
    try:
        environment = parse_environment(env or (), env_file or (), command)
        folder = parse_folder(workdir)
    except ValueError as error:
        raise usage(str(error)) from None
    rows, columns = terminal_size(0) if tty else (None, None)

    async def work() -> int:
        async with (
            connect() as client,
            client.containers.exec(
                ref,
                command,
                tty=tty,
                stdin=interactive and not detach,
                detach=detach,
                environment=assignments(environment),
                user=user,
                working_dir=folder,
                rows=rows,
                columns=columns,
            ) as session,
        ):
            if detach:
                return 0
            ends_us = hangup_ends_us() if interactive and tty else contextlib.nullcontext()
            try:
                with ends_us:
                    code = await carry(session, tty=tty, stdin=interactive)
            except Detached:
                return 0
            except Unavailable:
                if (code := await killed(client, ref)) is None:
                    raise
            if code is None and (code := await killed(client, ref)) is None:
                raise Unavailable("the command's exit code is not known")
            return code

    raise typer.Exit(drive(work(), command_exit_code))


def attach(
    ref: RunningRef,
    no_stdin: Annotated[
        bool, typer.Option("--no-stdin", help="do not attach standard input")
    ] = False,
) -> None:
    """Attach to a running container; shows its output from now on.

    Exits with the container's exit code; signals stop the container. If it was
    run with -it, ctrl-p ctrl-q in a terminal detaches from it.
    """

    async def work() -> int:
        with Signals() as signals:
            async with connect() as client:
                container = await client.containers.get(ref)
                if container.state not in _TOLD:
                    raise Conflict(
                        f"{container.name} is not running",
                        details=f"it is {container.state}",
                        resolution=f"start it first: warmboot start {container.name}",
                    )
                stdin = bool(container.raw["stdin_open"]) and not no_stdin
                if stdin and container.tty and not has_terminal():
                    raise usage("the input is not a terminal; use --no-stdin")
                stay = Stay(client, container, signals)
                try:
                    return await stay.attach(stdin=stdin, tty=container.tty)
                except Detached:
                    return 0
                except asyncio.CancelledError:
                    if (interrupted := signals.settle()) is None:
                        raise
                    stay.left()
                    return interrupted

    raise typer.Exit(drive(work()))

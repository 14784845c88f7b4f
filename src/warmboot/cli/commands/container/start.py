"""``warmboot start``: starts containers that do not run, and with ``-a`` stays with one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.commands.container.bringing_up import brought_up
from warmboot.cli.commands.options import Interactive
from warmboot.cli.drive import connect, drive, each, failure_of, usage
from warmboot.cli.refs import StartableRefs
from warmboot.cli.terminal.attach import has_terminal
from warmboot.cli.terminal.foreground import Stay
from warmboot.cli.terminal.signals import Signals
from warmboot.cli.terminal.terminal import Detached
from warmboot.model.errors import WarmbootError

if TYPE_CHECKING:
    from warmboot.client import Client


def start(
    refs: StartableRefs,
    attach: Annotated[
        bool, typer.Option("--attach", "-a", help="stay with it until it ends, showing its output")
    ] = False,
    interactive: Interactive = False,
) -> None:
    """Start containers that were only created, have exited or failed.

    With -a or -i it stays with one container, as run does, and exits with its exit code.
    """
    if attach or interactive:
        if len(refs) > 1:
            raise usage("you cannot start and attach multiple containers at once", "-a")
        raise typer.Exit(drive(_stay(refs[0], interactive=interactive)))

    async def act(client: Client, ref: str) -> None:
        await brought_up(client, ref, "starting", client.containers.start)

    each(refs, act)


async def _stay(ref: str, *, interactive: bool) -> int:
    with Signals() as signals:
        async with connect() as client:
            container = await client.containers.get(ref)
            stdin = interactive and bool(container.raw["stdin_open"])
            if stdin and container.tty and not has_terminal():
                raise usage("the input is not a terminal; leave out -i", "-i")
            attaching = client.containers.attach(container.id, logs=False, start=True)
            stay = Stay(client, container, signals)
            try:
                return await stay.start(attaching, stdin=stdin, tty=container.tty)
            except Detached:
                return 0
            except asyncio.CancelledError:
                if (interrupted := signals.settle()) is None:
                    raise
                stay.left()
                return interrupted
            except WarmbootError as error:
                now = await client.containers.wait(container.id, "running", 0)
                if now.state == "failed" and now.error is not None:
                    raise failure_of(now) from error
                raise

"""The command line. Parts that are slow to import are imported by the commands that need them."""

from __future__ import annotations

from typing import Annotated

import typer

from warmboot import __version__
from warmboot.cli.commands import containers, runtime, sessions, snapshot, worker
from warmboot.cli.commands.events import events
from warmboot.cli.commands.host import doctor, serve
from warmboot.cli.commands.housekeeping import gc
from warmboot.cli.commands.ps import ps
from warmboot.cli.commands.run import RunCommand, run
from warmboot.cli.commands.top import top
from warmboot.cli.docker_words import Commands

app = typer.Typer(
    name="warmboot",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run containers in microVMs that start warm, and pause workers with their memory.",
    epilog="WARMBOOT_URL (http://HOST:PORT or unix:///PATH) and WARMBOOT_TOKEN select the manager. "
    "The default is the Unix socket of this machine's manager, or http://127.0.0.1:18080.",
)

CONTAINERS, SERVICE = "Containers", "Service"
# Options end where the container's command begins.
_COMMAND_FOLLOWS = {"allow_interspersed_args": False, "ignore_unknown_options": False}


def _version(wanted: bool) -> None:
    if wanted:
        print(f"warmboot {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="print the version and exit"
        ),
    ] = False,
) -> None:
    pass


app.command(
    cls=RunCommand,
    rich_help_panel=CONTAINERS,
    # As with docker, -h is the host name.
    context_settings={**_COMMAND_FOLLOWS, "help_option_names": ["--help"]},
)(run)
app.command(rich_help_panel=CONTAINERS)(ps)
app.command(rich_help_panel=CONTAINERS)(containers.inspect)
app.command(rich_help_panel=CONTAINERS)(containers.logs)
app.command("exec", rich_help_panel=CONTAINERS, context_settings=_COMMAND_FOLLOWS)(sessions.exec_)
app.command(rich_help_panel=CONTAINERS)(sessions.attach)
app.command(rich_help_panel=CONTAINERS)(containers.port)
app.command(rich_help_panel=CONTAINERS)(containers.stop)
app.command(rich_help_panel=CONTAINERS)(containers.kill)
app.command(rich_help_panel=CONTAINERS)(containers.start)
app.command(rich_help_panel=CONTAINERS)(containers.restart)
app.command(rich_help_panel=CONTAINERS)(containers.wait)
app.command(rich_help_panel=CONTAINERS)(containers.rm)
app.command(rich_help_panel=SERVICE)(serve)
app.command(rich_help_panel=SERVICE)(doctor)
app.command(rich_help_panel=SERVICE)(events)
app.command(rich_help_panel=SERVICE)(gc)
app.command(rich_help_panel=SERVICE)(top)
app.add_typer(worker.app, name="worker", rich_help_panel=CONTAINERS)
app.add_typer(runtime.app, name="runtime", rich_help_panel=SERVICE)
app.add_typer(snapshot.app, name="snapshot", rich_help_panel=SERVICE)


def main() -> None:
    """The ``warmboot`` program."""
    app(prog_name="warmboot")

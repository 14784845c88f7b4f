"""The command line. What a command needs is imported when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand
from typer.main import get_command

from warmboot import __version__
from warmboot.cli.directory import Directory, Place
from warmboot.cli.docker_words import Commands
from warmboot.cli.shells import completions, register
from warmboot.cli.values import use_our_words

CONTAINERS, SERVICE = "Containers", "Service"
# Options end where the container's command begins.
_COMMAND_FOLLOWS = {"allow_interspersed_args": False, "ignore_unknown_options": False}

COMMANDS: Mapping[str, Place] = {
    "run": Place(
        "container.run",
        "run",
        CONTAINERS,
        "Run a container in its own VM, restored from a snapshot if possible.",
        # As with docker, -h is the host name.
        {
            "cls": "RunCommand",
            "context_settings": {**_COMMAND_FOLLOWS, "help_option_names": ["--help"]},
        },
    ),
    "create": Place(
        "container.create",
        "create",
        CONTAINERS,
        "Create a container without starting it, and print its id.",
        {
            "cls": "RunCommand",
            "context_settings": {**_COMMAND_FOLLOWS, "help_option_names": ["--help"]},
        },
    ),
    "ps": Place("ps", "ps", CONTAINERS, "List containers."),
    "inspect": Place(
        "containers",
        "inspect",
        CONTAINERS,
        "Show the configuration and state of containers, and how they were booted.",
    ),
    "logs": Place("containers", "logs", CONTAINERS, "Show the output of a container."),
    "exec": Place(
        "sessions",
        "exec_",
        CONTAINERS,
        "Run a command in a running container, and exit with its exit code.",
        {"context_settings": _COMMAND_FOLLOWS},
    ),
    "attach": Place(
        "sessions",
        "attach",
        CONTAINERS,
        "Attach to a running container; shows its output from now on.",
    ),
    "port": Place("containers", "port", CONTAINERS, "Show the published ports of a container."),
    "stop": Place("containers", "stop", CONTAINERS, "Stop containers."),
    "kill": Place("containers", "kill", CONTAINERS, "Send a signal to containers."),
    "start": Place(
        "container.start",
        "start",
        CONTAINERS,
        "Start containers that were only created, have exited or failed.",
    ),
    "restart": Place("containers", "restart", CONTAINERS, "Stop and start containers."),
    "pause": Place(
        "containers", "pause", CONTAINERS, "Have containers stand still in memory, with their VMs."
    ),
    "unpause": Place(
        "containers", "unpause", CONTAINERS, "Have paused containers go on where they were."
    ),
    "park": Place(
        "containers", "park", CONTAINERS, "Put containers' memory on the disk, and end their VMs."
    ),
    "wake": Place(
        "containers", "wake", CONTAINERS, "Have parked containers go on where they were."
    ),
    "wait": Place(
        "containers",
        "wait",
        CONTAINERS,
        "Wait for containers, and print their exit codes (or their states).",
    ),
    "rename": Place("files", "rename", CONTAINERS, "Rename a container; its host name stays."),
    "cp": Place("files", "cp", CONTAINERS, "Copy files between a container and this machine."),
    "diff": Place(
        "files",
        "diff",
        CONTAINERS,
        "Show which files of its image a container has changed (C), added (A) or deleted (D).",
    ),
    "stats": Place(
        "container.stats",
        "stats",
        CONTAINERS,
        "Show what containers use: CPU, memory, network, disk and processes, until ctrl-c.",
    ),
    "rm": Place("containers", "rm", CONTAINERS, "Remove containers and their VMs."),
    "serve": Place(
        "host",
        "serve",
        SERVICE,
        "Run the manager in the foreground; MANAGER_* variables configure it.",
    ),
    "doctor": Place(
        "host",
        "doctor",
        SERVICE,
        "Check what works on this machine, what does not, why, and what to do.",
    ),
    "events": Place("events", "events", SERVICE, "Show events as they happen, until ctrl-c."),
    "gc": Place(
        "housekeeping",
        "gc",
        SERVICE,
        "Remove deleted and unused snapshots, leftovers, and caches over their budget.",
    ),
    "top": Place(
        "top",
        "top",
        SERVICE,
        "Show what is running and what it uses, live (q quits), or the processes of a container.",
        {"context_settings": _COMMAND_FOLLOWS},
    ),
    "engine": Place(
        "engine.commands",
        "app",
        CONTAINERS,
        "Manage Docker engines of one's own, each in a VM.",
    ),
    "fork": Place(
        "container.fork",
        "fork",
        CONTAINERS,
        "Start containers or engines from a running one as it is, and print their names.",
    ),
    "worker": Place(
        "worker",
        "app",
        CONTAINERS,
        "Manage workers: containers that are paused with their memory.",
    ),
    "image": Place(
        "snapshots.image",
        "app",
        CONTAINERS,
        "Prepare images of registries, so that their containers start at once.",
    ),
    "runtime": Place(
        "runtime",
        "app",
        SERVICE,
        "Manage runtime images: kernel, Docker and guest agent for VMs.",
    ),
    "snapshot": Place(
        "snapshots.snapshot",
        "app",
        SERVICE,
        "Manage snapshots: VMs frozen with Docker ready, and engines frozen in use.",
    ),
}


class _Program(Commands):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Directory(COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        options = TyperCommand.shell_complete(cast("Any", self), ctx, incomplete)
        return [*completions(COMMANDS, incomplete), *options]


app = typer.Typer(
    name="warmboot",
    cls=_Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run containers in microVMs that start warm, and pause workers with their memory.",
    epilog="WARMBOOT_URL (http://HOST:PORT or unix:///PATH) and WARMBOOT_TOKEN select the manager. "
    "The default is the Unix socket of this machine's manager, or http://127.0.0.1:18080.",
)
use_our_words()


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


def program() -> Any:
    """All of it, as typer has commands; each is built when it is called."""
    command = get_command(app)
    register()
    return command


def main() -> None:
    """The ``warmboot`` program."""
    program()(prog_name="warmboot")

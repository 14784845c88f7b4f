"""``warmboot run``: create a container and, without ``-d``, stay with it until it ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from warmboot.cli.commands.options import (
    Cold,
    Cpus,
    Env,
    EnvFile,
    Interactive,
    Label,
    Memory,
    Name,
    RuntimeImage,
    Tty,
    User,
    Workdir,
)
from warmboot.cli.commands.running import Run
from warmboot.cli.drive import command_exit_code, drive, usage
from warmboot.cli.parsing import (
    parse_cpus,
    parse_environment,
    parse_folder,
    parse_labels,
    parse_memory,
    parse_port,
)
from warmboot.cli.terminal.attach import has_terminal
from warmboot.cli.terminal.foreground import OUR_FAILURE
from warmboot.model.conventions.signals import signal_name
from warmboot.model.errors import WarmbootError

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class RunCommand(TyperCommand):
    """A mistake on the command line exits as any other failure of ours, as with docker."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except TyperException as error:
            error.exit_code = OUR_FAILURE
            raise


def run(
    image: Annotated[
        str,
        typer.Argument(metavar="IMAGE", help="image reference, e.g. redis:7", show_default=False),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND", help="command to run (default: the image's)", show_default=False
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="print the id and return")] = False,
    interactive: Interactive = False,
    tty: Tty = False,
    name: Name = None,
    publish: Annotated[
        list[str] | None,
        typer.Option(
            "--publish",
            "-p",
            help="publish a port: \\[ip:]\\[host:]container\\[/udp]",
            metavar="PORT",
        ),
    ] = None,
    env: Env = None,
    env_file: EnvFile = None,
    rm: Annotated[
        bool, typer.Option("--rm", help="remove the container when it has ended")
    ] = False,
    entrypoint: Annotated[
        str | None, typer.Option(help="entrypoint (default: the image's)")
    ] = None,
    user: User = "",
    workdir: Workdir = "",
    hostname: Annotated[
        str,
        typer.Option(
            "--hostname", "-h", help="host name (default: the container's name)", metavar="NAME"
        ),
    ] = "",
    stop_signal: Annotated[
        str | None, typer.Option(help="signal that stops the container", metavar="SIGNAL")
    ] = None,
    stop_timeout: Annotated[
        int | None,
        typer.Option(
            min=0, max=3600, help="seconds to wait for a stop before SIGKILL", metavar="S"
        ),
    ] = None,
    cpus: Cpus = None,
    memory: Memory = None,
    label: Label = None,
    cold: Cold = False,
    archive: Annotated[
        Path | None,
        typer.Option(help="upload the image: docker save, or OCI layout as tar", metavar="FILE"),
    ] = None,
    runtime: RuntimeImage = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="keep the container if it cannot be started")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="do not show progress")] = False,
    volume: Annotated[
        list[str] | None, typer.Option("--volume", "-v", "--mount", hidden=True)
    ] = None,
) -> None:
    """Run a container in its own VM, restored from a snapshot if possible.

    Exits with the container's exit code; with 126 or 127 if its command
    cannot be executed or does not exist; with 125 if warmboot itself failed.
    SIGINT, SIGTERM and SIGHUP stop the container; a second signal does not wait.
    With -it in a terminal, ctrl-p ctrl-q detaches from the container.
    """
    if interactive and tty and not detach and not has_terminal():
        raise usage("the input is not a terminal; leave out -t", "-t", OUR_FAILURE)
    try:
        _refuse_volumes(volume)
        body: dict[str, Any] = {
            "image": image,
            "environment": parse_environment(env or (), env_file or (), command or ()),
            "ports": [parse_port(port) for port in publish or ()],
            "labels": parse_labels(label or ()),
            "tty": tty,
            "stdin_open": interactive,
            "auto_remove": rm,
            "boot": "cold" if cold else "auto",
            "user": user,
            "working_dir": parse_folder(workdir),
            "hostname": _host_name(hostname),
        }
        wanted = {
            "vcpus": parse_cpus(cpus) if cpus else None,
            "memory_mib": parse_memory(memory) if memory else None,
        }
        if stop_signal is not None:
            body["stop_signal"] = signal_name(stop_signal)
    except ValueError as error:
        raise usage(str(error), exit_code=OUR_FAILURE) from None
    if stop_timeout is not None:
        body["stop_timeout_s"] = stop_timeout
    if name is not None:
        body["name"] = name
    if command:
        body["command"] = command
    if entrypoint is not None:
        body["entrypoint"] = [entrypoint] if entrypoint else []
    work = Run(body, wanted, archive, runtime, quiet=quiet, keep=keep)
    if detach:
        print(drive(work.detached(), _exit_code))
        return
    raise typer.Exit(drive(work.attached(interactive=interactive, tty=tty, rm=rm), _exit_code))


def _exit_code(error: WarmbootError) -> int:
    return command_exit_code(error, OUR_FAILURE)


def _host_name(name: str) -> str:
    if name and not _HOSTNAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a host name: up to 63 letters in lower case, digits and '-' inside"
        )
    return name


def _refuse_volumes(volumes: list[str] | None) -> None:
    if volumes:
        raise ValueError(
            "there are no volumes: the container runs in its own VM, which cannot access this "
            "machine's folders; put files into the image, or write them with `warmboot exec -i`"
        )

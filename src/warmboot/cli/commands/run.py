"""``warmboot run``: create a container and, without ``-d``, stay with it until it ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from warmboot.cli.commands.running import Run
from warmboot.cli.completion import image_names
from warmboot.cli.drive import drive, usage
from warmboot.cli.parsing import parse_cpus, parse_environment, parse_memory, parse_port
from warmboot.cli.terminal.attach import has_terminal
from warmboot.cli.terminal.foreground import OUR_FAILURE
from warmboot.model.conventions.signals import signal_name
from warmboot.model.errors import CommandNotExecutable, CommandNotFound, WarmbootError

NOT_EXECUTABLE, NOT_FOUND = 126, 127
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
        typer.Argument(metavar="IMAGE", help="a reference, e.g. redis:7", show_default=False),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="instead of the image's own", show_default=False),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="print the id and leave it running")
    ] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="pass on standard input")
    ] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="give it a terminal")] = False,
    name: Annotated[str | None, typer.Option(help="its name")] = None,
    publish: Annotated[
        list[str] | None,
        typer.Option("--publish", "-p", help="\\[ip:]\\[host:]container\\[/udp]", metavar="PORT"),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", help="K=V, or K to pass on its value", metavar="K=V"),
    ] = None,
    env_file: Annotated[
        list[Path] | None, typer.Option(help="a file of K=V lines", metavar="FILE")
    ] = None,
    rm: Annotated[bool, typer.Option("--rm", help="remove it when it has ended")] = False,
    entrypoint: Annotated[str | None, typer.Option(help="instead of the image's own")] = None,
    user: Annotated[str, typer.Option("--user", "-u", help="user or user:group")] = "",
    workdir: Annotated[str, typer.Option("--workdir", "-w", help="folder to run in")] = "",
    hostname: Annotated[
        str, typer.Option("--hostname", "-h", help="instead of its name", metavar="NAME")
    ] = "",
    stop_signal: Annotated[
        str | None, typer.Option(help="what stop sends", metavar="SIGNAL")
    ] = None,
    stop_timeout: Annotated[
        int | None, typer.Option(min=0, max=3600, help="seconds before it is killed", metavar="S")
    ] = None,
    cpus: Annotated[str | None, typer.Option(help="whole CPUs", metavar="N")] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", "-m", help="e.g. 512m, 1g", metavar="SIZE")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="K=V", help="a label")
    ] = None,
    cold: Annotated[bool, typer.Option("--cold", help="boot the VM afresh")] = False,
    archive: Annotated[
        Path | None,
        typer.Option(help="upload the image from docker save or OCI tar", metavar="FILE"),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="the runtime image, by name or id", autocompletion=image_names),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="keep it though it cannot start")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
    volume: Annotated[
        list[str] | None, typer.Option("--volume", "-v", "--mount", hidden=True)
    ] = None,
) -> None:
    """Run a container in a VM of its own; it starts warm where it can.

    Exits with the container's exit code, with 126 or 127 when its command
    cannot be executed or is not there, or 125 when warmboot itself failed.
    SIGINT, SIGTERM and SIGHUP stop it; a second one does not wait for that.
    In a terminal (-it), ctrl-p ctrl-q leaves it running.
    """
    if interactive and tty and not detach and not has_terminal():
        raise usage("the input is no terminal; leave out -t", "-t", OUR_FAILURE)
    try:
        _refuse_volumes(volume)
        body: dict[str, Any] = {
            "image": image,
            "environment": parse_environment(env or (), env_file or ()),
            "ports": [parse_port(port) for port in publish or ()],
            "labels": dict(_label(entry) for entry in label or ()),
            "tty": tty,
            "stdin_open": interactive,
            "auto_remove": rm,
            "boot": "cold" if cold else "auto",
            "user": user,
            "working_dir": _absolute(workdir),
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
    match error:
        case CommandNotFound():
            return NOT_FOUND
        case CommandNotExecutable():
            return NOT_EXECUTABLE
        case _:
            return OUR_FAILURE


def _label(entry: str) -> tuple[str, str]:
    name, _, value = entry.partition("=")
    return name, value


def _absolute(folder: str) -> str:
    if folder and not folder.startswith("/"):
        raise ValueError(f"the working folder {folder!r} is no absolute path")
    return folder


def _host_name(name: str) -> str:
    if name and not _HOSTNAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no host name: up to 63 letters in lower case, digits and '-' inside"
        )
    return name


def _refuse_volumes(volumes: list[str] | None) -> None:
    if volumes:
        raise ValueError(
            "there are no volumes: the container is in a VM of its own, which does not see this "
            "machine's folders; put files into the image, or write them with `warmboot exec -i`"
        )

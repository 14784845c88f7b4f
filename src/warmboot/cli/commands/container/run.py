"""``warmboot run``: create a container and, without ``-d``, stay with it until it ends."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from warmboot.cli.commands.container.docker_options import DockerOptions
from warmboot.cli.commands.container.running import Run
from warmboot.cli.commands.options import (
    Cold,
    Env,
    EnvFile,
    Idle,
    Interactive,
    Label,
    Memory,
    Name,
    ParkAtShutdown,
    RuntimeImage,
    Tty,
    User,
    Workdir,
)
from warmboot.cli.docker import options as docker
from warmboot.cli.docker.spread import spread
from warmboot.cli.drive import command_exit_code, drive, usage
from warmboot.cli.parsing import (
    parse_duration,
    parse_environment,
    parse_folder,
    parse_given_folder,
    parse_labels,
    parse_memory,
    parse_ports,
)
from warmboot.cli.terminal.attach import has_terminal
from warmboot.cli.terminal.foreground import OUR_FAILURE
from warmboot.model.conventions.signals import signal_name
from warmboot.model.errors import WarmbootError

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


Image = Annotated[
    str,
    typer.Argument(metavar="IMAGE", help="image reference, e.g. redis:7", show_default=False),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="COMMAND", help="command to run (default: the image's)", show_default=False
    ),
]


class RunCommand(TyperCommand):
    """A mistake on the command line exits as any other failure of ours, as with docker."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except TyperException as error:
            error.exit_code = OUR_FAILURE
            raise


@dataclass(frozen=True, slots=True)
class Asked:
    """What ``run`` and ``create`` are told of the container."""

    interactive: Interactive = False
    tty: Tty = False
    name: Name = None
    publish: Annotated[
        list[str] | None,
        typer.Option(
            "--publish",
            "-p",
            help="publish a port: \\[ip:]\\[host:]container\\[/udp]",
            metavar="PORT",
        ),
    ] = None
    publish_all: Annotated[
        bool,
        typer.Option("--publish-all", "-P", help="publish all ports that the image exposes"),
    ] = False
    env: Env = None
    env_file: EnvFile = None
    rm: Annotated[bool, typer.Option("--rm", help="remove the container when it has ended")] = False
    entrypoint: Annotated[str | None, typer.Option(help="entrypoint (default: the image's)")] = None
    user: User = ""
    workdir: Workdir = ""
    hostname: Annotated[
        str,
        typer.Option(
            "--hostname", "-h", help="host name (default: the container's name)", metavar="NAME"
        ),
    ] = ""
    stop_signal: Annotated[
        str | None, typer.Option(help="signal that stops the container", metavar="SIGNAL")
    ] = None
    stop_timeout: Annotated[
        int | None,
        typer.Option(
            min=0, max=3600, help="seconds to wait for a stop before SIGKILL", metavar="S"
        ),
    ] = None
    cpus: Annotated[str | None, typer.Option(help="number of CPUs, e.g. 2 or 1.5", metavar="N")] = (
        None
    )
    memory: Memory = None
    label: Label = None
    idle: Idle = None
    park_at_shutdown: ParkAtShutdown = False
    cold: Cold = False
    archive: Annotated[
        Path | None,
        typer.Option(help="upload the image: docker save, or OCI layout as tar", metavar="FILE"),
    ] = None
    runtime: RuntimeImage = None
    folder: Annotated[
        list[str] | None,
        typer.Option(
            help="folder of this machine, in which is what -v and --mount bind, with your rights",
            metavar="DIR\\[:ro]",
        ),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="do not show progress")] = False

    def work(
        self, image: str, command: list[str] | None, options: DockerOptions, *, keep: bool = False
    ) -> Run:
        """What is to be done; a mistake ends the program, as Docker's would."""
        try:
            return self._work(image, command or [], options, keep)
        except ValueError as error:
            raise usage(str(error), exit_code=OUR_FAILURE) from None

    def _work(self, image: str, command: list[str], options: DockerOptions, keep: bool) -> Run:
        vcpus, limit = docker.cpus(self.cpus) if self.cpus else (None, None)
        body: dict[str, Any] = {
            "image": image,
            "environment": parse_environment(self.env or (), self.env_file or (), command),
            "ports": [port for text in self.publish or () for port in parse_ports(text)],
            "labels": parse_labels(self.label or ()),
            "tty": self.tty,
            "stdin_open": self.interactive,
            "auto_remove": self.rm,
            "boot": "cold" if self.cold else "auto",
            "user": self.user,
            "working_dir": parse_folder(self.workdir),
            "hostname": _host_name(self.hostname),
        }
        wanted = {
            "vcpus": vcpus,
            "memory_mib": parse_memory(self.memory) if self.memory else None,
        }
        asked = {
            "stop_signal": None if self.stop_signal is None else signal_name(self.stop_signal),
            "stop_timeout_s": self.stop_timeout,
            "name": self.name,
            "command": command or None,
            "entrypoint": _entrypoint(self.entrypoint),
            "publish_all": self.publish_all or None,
            "park_after_idle_s": None if self.idle is None else parse_duration(self.idle),
            "park_at_shutdown": self.park_at_shutdown or None,
            "options": (docker_options := options.body(limit)) or None,
            "folders": [parse_given_folder(one) for one in self.folder or ()] or None,
            "owner_uid": os.getuid() if self.folder or _binds(docker_options) else None,
        }
        body |= {field: value for field, value in asked.items() if value is not None}
        return Run(body, wanted, self.archive, self.runtime, quiet=self.quiet, keep=keep)


@spread
def run(
    image: Image,
    asked: Asked,
    options: DockerOptions,
    command: Words = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="print the id and return")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="keep the container if it cannot be started")
    ] = False,
) -> None:
    """Run a container in its own VM, restored from a snapshot if possible.

    Exits with the container's exit code; with 126 or 127 if its command
    cannot be executed or does not exist; with 125 if warmboot itself failed.
    SIGINT, SIGTERM and SIGHUP stop the container; a second signal does not wait.
    With -it in a terminal, ctrl-p ctrl-q detaches from the container.
    """
    if asked.interactive and asked.tty and not detach and not has_terminal():
        raise usage("the input is not a terminal; leave out -t", "-t", OUR_FAILURE)
    work = asked.work(image, command, options, keep=keep)
    if detach:
        print(drive(work.detached(), _exit_code))
        return
    attached = work.attached(interactive=asked.interactive, tty=asked.tty, rm=asked.rm)
    raise typer.Exit(drive(attached, _exit_code))


def _exit_code(error: WarmbootError) -> int:
    return command_exit_code(error, OUR_FAILURE)


def _binds(options: Mapping[str, Any]) -> bool:
    return any(mount["type"] == "bind" for mount in options.get("mounts", ()))


def _entrypoint(word: str | None) -> list[str] | None:
    return None if word is None else [word] if word else []


def _host_name(name: str) -> str:
    if name and not _HOSTNAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a host name: up to 63 letters in lower case, digits and '-' inside"
        )
    return name

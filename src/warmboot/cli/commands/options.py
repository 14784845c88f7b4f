"""Options that several commands take, each with one name, help and form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from warmboot.cli.completion import image_names
from warmboot.cli.docker.templates import Template
from warmboot.cli.drive import usage
from warmboot.cli.terminal.output import print_lines, print_table

Json = Annotated[bool, typer.Option("--json", help="print JSON, as the API returns it")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print only ids")]

Format = Annotated[
    str | None,
    typer.Option("--format", "-f", help="template: {{.Field}}, {{json .}}, …", metavar="TEMPLATE"),
]

Name = Annotated[str | None, typer.Option(help="name (default: a generated one)")]
Label = Annotated[list[str] | None, typer.Option("--label", "-l", metavar="K=V", help="label")]
TimeToLive = Annotated[
    str | None,
    typer.Option("--ttl", help="remove it after this time, e.g. 90m or 2h", metavar="TIME"),
]

ParkAtShutdown = Annotated[
    bool,
    typer.Option(
        "--park-at-shutdown", help="park it when the manager stops, wake it when that starts"
    ),
]

Idle = Annotated[
    str | None,
    typer.Option(
        "--idle", help="park it when nobody has used it for this time, e.g. 10m", metavar="TIME"
    ),
]

Cpus = Annotated[str | None, typer.Option(help="number of whole CPUs", metavar="N")]
Memory = Annotated[
    str | None, typer.Option("--memory", "-m", help="memory, e.g. 512m or 1g", metavar="SIZE")
]
Disk = Annotated[
    str | None,
    typer.Option(help="size of the disk, e.g. 40g (default: the image's)", metavar="SIZE"),
]
Cold = Annotated[
    bool, typer.Option("--cold", help="boot a fresh VM instead of restoring a snapshot")
]
RuntimeImage = Annotated[
    str | None,
    typer.Option(help="runtime image to use, by name or id", autocompletion=image_names),
]

Env = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        "-e",
        help="environment variable: K=V; K alone passes its value, or removes it",
        metavar="K=V",
    ),
]
EnvFile = Annotated[
    list[Path] | None,
    typer.Option(help="read environment variables from a file", metavar="FILE"),
]
Interactive = Annotated[bool, typer.Option("--interactive", "-i", help="keep standard input open")]
Tty = Annotated[bool, typer.Option("--tty", "-t", help="allocate a terminal")]
User = Annotated[str, typer.Option("--user", "-u", help="user, or user:group")]
Workdir = Annotated[str, typer.Option("--workdir", "-w", help="working directory in the container")]


def parse_template(text: str) -> Template:
    """The value of ``--format``."""
    try:
        return Template(text)
    except ValueError as error:
        raise usage(str(error), "--format") from None


def print_by(
    template: Template, things: Sequence[Mapping[str, Any]], headings: Mapping[str, str]
) -> None:
    """A line, or a row of a table, for each thing."""
    try:
        if template.table:
            columns = template.headings(headings)
            rows = [template.cells(thing) for thing in things]
            print_table(columns, rows, keep=tuple(columns), cut=False)
        else:
            print_lines(template.line(thing) for thing in things)
    except ValueError as error:
        raise usage(str(error), "--format") from None

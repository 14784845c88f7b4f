"""``warmboot ps``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.commands.options import Json, Quiet, parse_template, print_by
from warmboot.cli.drive import connect, drive, usage
from warmboot.cli.filters import Filters
from warmboot.cli.terminal.output import (
    age,
    brief_age,
    print_json,
    print_lines,
    print_table,
    short,
    terminal_width,
    with_reason,
)

if TYPE_CHECKING:
    from datetime import datetime

    from warmboot.client.results import Container

WIDE = 110


def ps(
    all_: Annotated[
        bool, typer.Option("--all", "-a", help="list all containers (default: running ones)")
    ] = False,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", "-f", help="filter by name=, id=, label=, status=, …", metavar="K=V"
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option("--last", "-n", min=0, help="list the N newest, in any state", metavar="N"),
    ] = None,
    latest: Annotated[
        bool, typer.Option("--latest", "-l", help="list the newest, in any state")
    ] = False,
    no_trunc: Annotated[
        bool, typer.Option("--no-trunc", help="do not truncate the output")
    ] = False,
    quiet: Quiet = False,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="template: {{.ID}}, {{json .}}, table …", metavar="TEMPLATE"),
    ] = None,
    json_: Json = False,
) -> None:
    """List containers."""
    try:
        wanted = Filters(filters or ())
    except ValueError as error:
        raise usage(str(error), "--filter") from None
    template = None if format_ is None else parse_template(format_)
    most = 1 if latest else last
    everything = all_ or most is not None or wanted.any_state

    async def work() -> list[Container]:
        async with connect() as client:
            return await client.containers.list(
                all_states=everything,
                states=wanted.states,
                labels=wanted.labels,
                name=wanted.name,
            )

    listed = sorted(drive(work()), key=lambda container: container.created_at, reverse=True)
    found = [container for container in listed if wanted.match(container)][:most]
    if json_:
        print_json([container.raw for container in found])
    elif quiet:
        print_lines(container.id for container in found)
    elif template is not None:
        print_by(template, [_as_docker(one, whole=no_trunc) for one in found], _HEADINGS)
    else:
        _print_containers(found, whole=no_trunc)


_HEADINGS = {"ID": "CONTAINER ID", "RunningFor": "CREATED", "CreatedAt": "CREATED AT"}


def _as_docker(container: Container, *, whole: bool) -> dict[str, str]:
    """Docker's names for what a list of containers tells, and ``Boot``."""
    return {
        "ID": container.id if whole else short(container.id),
        "Image": container.image,
        "Command": " ".join(container.command or ()),
        "CreatedAt": container.created_at.isoformat(sep=" ", timespec="seconds"),
        "RunningFor": f"{age(container.created_at)} ago",
        "Status": _status(container, age),
        "State": container.state,
        "Ports": ", ".join(str(port) for port in container.ports),
        "Names": container.name,
        "Labels": ",".join(f"{name}={text}" for name, text in container.raw["labels"].items()),
        "Boot": container.boot_method or "",
    }


def _print_containers(found: list[Container], *, whole: bool) -> None:
    wide = whole or terminal_width() >= WIDE
    columns = ["CONTAINER ID", "IMAGE", "STATUS", "BOOT", "PORTS", "NAMES"]
    if wide:
        columns[2:2] = ["COMMAND", "CREATED"]
    rows = []
    for container in found:
        ports = ", ".join(_port(str(port)) for port in container.ports)
        row = [
            container.id if whole else short(container.id),
            container.image,
            _status(container, age if wide else brief_age),
            container.boot_method or "",
            ports,
            container.name,
        ]
        if wide:
            row[2:2] = [" ".join(container.command or ()), f"{age(container.created_at)} ago"]
        rows.append(row)
    print_table(columns, rows, keep=("CONTAINER ID", "BOOT", "NAMES"), cut=not whole)


def _port(text: str) -> str:
    return text.removeprefix("127.0.0.1:").removesuffix("/tcp")


def _status(container: Container, told: Callable[[datetime | None], str]) -> str:
    """What fits into a line, and of one that failed why."""
    status = status_of(container, told)
    return with_reason(status, container.error) if container.state == "failed" else status


_HEALTH = {
    "starting": " (health: starting)",
    "healthy": " (healthy)",
    "unhealthy": " (unhealthy)",
}  # as docker has it


def status_of(container: Container, told: Callable[[datetime | None], str]) -> str:
    silent = "" if container.answering else " (Not answering)"
    health = container.health or ""
    match container.state:
        case "running":
            remark = " (Stalled)" if container.stalled else silent or _HEALTH.get(health, "")
            return f"Up {told(container.started_at)}{remark}"
        case "paused":
            return f"Up {told(container.started_at)} (Paused)"
        case "exited":
            return f"Exited ({container.exit_code}) {told(container.finished_at)} ago{silent}"
        case other:
            return f"{other.capitalize()}{silent}"

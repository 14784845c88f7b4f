"""``warmboot stats``: what containers use, as docker prints it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.commands.options import Json, parse_template, print_by
from warmboot.cli.completion import running_names
from warmboot.cli.drive import connect, drive
from warmboot.cli.terminal.output import print_json, print_table, short
from warmboot.model.errors import Conflict, DiskFull, HostError, NotFound

if TYPE_CHECKING:
    from warmboot.cli.docker.templates import Template
    from warmboot.client import Client
    from warmboot.client.results import Container
    from warmboot.client.usage import ContainerStats

    Counted = list[tuple[Container, ContainerStats | None]]

AT_ONCE = 16
"""Containers that are asked at a time: each takes a second or two."""

ROUND_S = 1.0
_UNCOUNTED = (Conflict, NotFound, DiskFull, HostError)
"""It does not run, or not any more, or does not answer: others are shown all the same."""
_HOME, _REST = "\x1b[H", "\x1b[J"
_HEADINGS = {
    "ID": "CONTAINER ID", "Container": "CONTAINER", "Name": "NAME", "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
}  # fmt: skip
_COLUMNS = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")


def stats(
    refs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONTAINER…]",
            help="names, ids or beginnings of ids (default: all that run)",
            autocompletion=running_names,
            show_default=False,
        ),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", "-a", help="show those too that do not run")
    ] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="print once and exit")] = False,
    no_trunc: Annotated[
        bool, typer.Option("--no-trunc", help="do not truncate the output")
    ] = False,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="template: {{.Name}}, {{json .}}, table …", metavar="TEMPLATE"
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Show what containers use: CPU, memory, network, disk and processes, until ctrl-c."""
    template = None if format_ is None else parse_template(format_)

    async def work() -> None:
        async with connect() as client:
            room, loop = asyncio.Semaphore(AT_ONCE), asyncio.get_running_loop()
            live = not no_stream and sys.stdout.isatty() and not json_
            if refs:  # who is named and not there is told, and no other
                await asyncio.gather(*(client.containers.get(ref) for ref in refs))
            if live:
                sys.stdout.write("\x1b[2J")
            while True:
                began = loop.time()
                counted = await _counted(client, refs or (), room, everything=all_)
                if live:
                    sys.stdout.write(_HOME + _REST)
                _print(counted, template, no_trunc, as_json=json_)
                sys.stdout.flush()
                if no_stream:
                    return
                # Their Dockers count for a second; without one that runs, nothing takes its time.
                await asyncio.sleep(ROUND_S - min(ROUND_S, loop.time() - began))

    drive(work())


async def _counted(
    client: Client, refs: Sequence[str], room: asyncio.Semaphore, *, everything: bool
) -> Counted:
    async def one(container: Container) -> ContainerStats | None:
        if container.state != "running":
            return None
        async with room:
            try:
                return await client.containers.stats(container.id)
            except _UNCOUNTED:
                return None

    async def found(ref: str) -> Container | None:
        with contextlib.suppress(NotFound):  # it was removed meanwhile
            return await client.containers.get(ref)
        return None

    if refs:
        named = await asyncio.gather(*(found(ref) for ref in refs))
        containers = [container for container in named if container is not None]
    else:
        states = () if everything else ("running", "paused")
        containers = await client.containers.list(all_states=everything, states=states)
    counts = await asyncio.gather(*(one(container) for container in containers))
    return list(zip(containers, counts, strict=True))


def _print(counted: Counted, template: Template | None, whole: bool, *, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {"id": one.id, "name": one.name, "state": one.state, "stats": count and count.raw}
                for one, count in counted
            ]
        )
        return
    things = [_as_docker(one, count, whole=whole) for one, count in counted]
    if template is not None:
        print_by(template, things, _HEADINGS)
        return
    rows = [[thing[name] for name in _COLUMNS] for thing in things]
    columns = [_HEADINGS[name] for name in _COLUMNS]
    print_table(columns, rows, keep=("CONTAINER ID", "NAME"), cut=not whole)


def _as_docker(one: Container, count: ContainerStats | None, *, whole: bool) -> dict[str, str]:
    """Docker's names for it; dashes where nothing is counted."""
    thing = {
        "Container": one.id if whole else short(one.id),
        "ID": one.id if whole else short(one.id),
        "Name": one.name,
    }
    if count is None:
        both = "-- / --"
        return thing | {
            "CPUPerc": "--", "MemUsage": both, "MemPerc": "--", "NetIO": both, "BlockIO": both,
            "PIDs": "--",
        }  # fmt: skip
    limit = count.memory_limit_bytes
    memory = 100 * count.memory_bytes / limit if limit else 0.0
    return thing | {
        "CPUPerc": f"{count.cpu_percent:.2f}%",
        "MemUsage": f"{binary(count.memory_bytes)} / {binary(limit)}",
        "MemPerc": f"{memory:.2f}%",
        "NetIO": f"{decimal(count.network_received_bytes)} / {decimal(count.network_sent_bytes)}",
        "BlockIO": f"{decimal(count.block_read_bytes)} / {decimal(count.block_written_bytes)}",
        "PIDs": str(count.processes),
    }


def binary(size_bytes: float) -> str:
    """``1.5MiB``: as docker tells of memory."""
    return _scaled(size_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB"), 4)


def decimal(size_bytes: float) -> str:
    """``1.57MB``: as docker tells of what was moved."""
    return _scaled(size_bytes, 1000, ("B", "kB", "MB", "GB", "TB"), 3)


def _scaled(number: float, step: int, units: Sequence[str], digits: int) -> str:
    scale = 0
    while number >= step and scale < len(units) - 1:
        number, scale = number / step, scale + 1
    return f"{number:.{digits}g}{units[scale]}"

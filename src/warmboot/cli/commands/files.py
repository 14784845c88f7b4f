"""The inside of containers: ``cp``, ``diff``, and the processes of one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer

from warmboot.cli.commands.options import Json
from warmboot.cli.drive import connect, drive, usage
from warmboot.cli.refs import Ref
from warmboot.cli.terminal.output import print_json, print_lines, print_table, size
from warmboot.cli.terminal.progress import status
from warmboot.cli.terminal.raw_output import pass_on

CHUNK_BYTES = 256 * 1024
STREAM = "-"
_LETTERS = {"changed": "C", "added": "A", "deleted": "D"}


def _place(metavar: str, stream: str) -> Any:
    return typer.Argument(
        metavar=metavar,
        show_default=False,
        help=f"CONTAINER:PATH, or a path of this machine; -: {stream}",
    )


def cp(
    source: Annotated[str, _place("SOURCE", "a tar from standard input")],
    target: Annotated[str, _place("TARGET", "a tar to standard output")],
    archive: Annotated[
        bool, typer.Option("--archive", "-a", help="keep who files belong to")
    ] = False,
    follow_link: Annotated[
        bool, typer.Option("--follow-link", "-L", help="copy what a link leads to, not the link")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="do not show progress")] = False,
) -> None:
    """Copy files between a container and this machine."""
    (from_, inside), (to, outside) = _split(source), _split(target)
    if bool(from_) == bool(to):
        both = "between two containers" if from_ else "on this machine only"
        raise usage(f"nothing is copied {both}: one of the two is CONTAINER:PATH")

    async def work() -> int | None:
        async with connect() as client:
            files = client.files
            if from_ and outside == STREAM:
                await pass_on(
                    ("stdout", chunk) async for chunk in files.read(from_, _rooted(inside))
                )
                return None
            if from_:
                return await files.copy_out(
                    from_, inside, outside, follow_link=follow_link, keep_owners=archive
                )
            if inside == STREAM:
                tar = _standard_input()
                await files.write(to, _rooted(outside), tar, keep_owners=archive)
                return None
            return await files.copy_in(
                to, inside, outside, follow_link=follow_link, keep_owners=archive
            )

    with contextlib.nullcontext() if quiet else status(f"copying {source} to {target} …"):
        copied = drive(work())
    if copied is not None and not quiet and sys.stderr.isatty():
        typer.echo(f"Copied {size(copied)} to {target}", err=True)


def _split(text: str) -> tuple[str, str]:
    """A container and a path in it, or no container and a path of this machine.

    As with docker: what begins with ``/`` or ``.`` is of this machine, colons and all.
    """
    if text == STREAM or text.startswith(("/", ".")):
        return "", text
    container, colon, path = text.partition(":")
    return (container, path or "/") if colon else ("", text)


def _rooted(path: str) -> str:
    return "/" + path.strip("/")


async def _standard_input() -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(os.read, 0, CHUNK_BYTES):
        yield chunk


def diff(ref: Ref, json_: Json = False) -> None:
    """Show which files of its image a container has changed (C), added (A) or deleted (D)."""

    async def work() -> list[tuple[str, str]]:
        async with connect() as client:
            return [(one.kind, one.path) for one in await client.files.changes(ref)]

    found = drive(work())
    if json_:
        print_json([{"kind": kind, "path": path} for kind, path in found])
        return
    print_lines(f"{_LETTERS.get(kind, '?')} {path}" for kind, path in found)


def processes(ref: str, ps_options: list[str]) -> None:
    """Print what ``ps`` with these options shows of a container."""

    async def work() -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        async with connect() as client:
            table = await client.files.processes(ref, " ".join(ps_options) or "-ef")
            return table.titles, table.rows

    titles, rows = drive(work())
    print_table(titles, rows)


def rename(
    ref: Ref,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="its new name")],
) -> None:
    """Rename a container; its host name stays."""

    async def work() -> None:
        async with connect() as client:
            await client.containers.rename(ref, name)

    drive(work())

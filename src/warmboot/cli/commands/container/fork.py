"""``warmboot fork``: containers or engines that go on from a running one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.completion import forkable_names
from warmboot.cli.drive import connect, drive
from warmboot.cli.terminal.output import print_lines
from warmboot.cli.terminal.progress import status
from warmboot.model.errors import Conflict, NotFound

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.engines import Engine
    from warmboot.client.results import Container


class Kind(StrEnum):
    CONTAINER = "container"
    ENGINE = "engine"


def fork(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="name, id or beginning of an id of a container or an engine",
            autocompletion=forkable_names,
            show_default=False,
        ),
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="how many", metavar="N")] = 1,
    kind: Annotated[
        Kind | None,
        typer.Option("--type", help="which of the two, if both have this name"),
    ] = None,
    writable_folders: Annotated[
        bool,
        typer.Option(
            "--writable-folders",
            help="have them write to folders of this machine as it does; else they only read them",
        ),
    ] = False,
) -> None:
    """Start containers or engines from a running one as it is, and print their names.

    What runs in it runs on in each of them, and in itself. All of them come up, or none is left.
    """

    async def work() -> Sequence[Container | Engine]:
        async with connect() as client:
            with status(f"forking {ref} …"):
                if (kind or await _kind_of(client, ref)) is Kind.ENGINE:
                    return await client.engines.fork(ref, count, writable_folders=writable_folders)
                return await client.containers.fork(ref, count, writable_folders=writable_folders)

    print_lines(one.name for one in drive(work()))


async def _kind_of(client: Client, ref: str) -> Kind:
    """Which of the two it names."""
    nouns = {Kind.CONTAINER: client.containers.get(ref), Kind.ENGINE: client.engines.get(ref)}
    asked = await asyncio.gather(*nouns.values(), return_exceptions=True)
    found = [kind for kind, one in zip(nouns, asked, strict=True) if not _is_absent(one)]
    if len(found) > 1:
        raise Conflict(
            f"there is a container {ref} and an engine {ref}",
            resolution=f"`warmboot fork --type engine {ref}`, or `--type container`",
        )
    if not found:
        raise NotFound(
            f"there is no container and no engine {ref}",
            resolution="list them: `warmboot ps`, `warmboot engine ls`",
        )
    return found[0]


def _is_absent(one: object) -> bool:
    if isinstance(one, BaseException) and not isinstance(one, NotFound):
        raise one
    return isinstance(one, NotFound)

"""``warmboot fork``: engines that go on from a running one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.completion import engine_names
from warmboot.cli.drive import connect, drive
from warmboot.cli.terminal.output import print_lines
from warmboot.cli.terminal.progress import status

if TYPE_CHECKING:
    from warmboot.client.engines import Engine


def fork(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="ENGINE",
            help="name, id or beginning of an id",
            autocompletion=engine_names,
            show_default=False,
        ),
    ],
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=64, help="how many", metavar="N")
    ] = 1,
) -> None:
    """Start engines from a running one as it is, and print their names.

    What runs in it runs on in each of them, and in itself. All of them come up, or none is left.
    """

    async def work() -> list[Engine]:
        async with connect() as client:
            with status(f"forking {ref} …"):
                return await client.engines.fork(ref, count)

    print_lines(engine.name for engine in drive(work()))

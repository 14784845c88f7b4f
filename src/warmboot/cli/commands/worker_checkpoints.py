"""``warmboot worker checkpoint``, ``checkpoints``, ``export`` and ``import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.commands.options import Json, Name
from warmboot.cli.completion import worker_names
from warmboot.cli.drive import connect, drive
from warmboot.cli.terminal.output import (
    age,
    print_json,
    print_lines,
    print_table,
    size,
    upload_total,
)
from warmboot.cli.terminal.progress import status

if TYPE_CHECKING:
    from warmboot.client.worker_results import Checkpoint

Ref = Annotated[
    str,
    typer.Argument(
        metavar="WORKER",
        help="name, id or beginning of an id",
        autocompletion=worker_names,
        show_default=False,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        help="seconds that it may take; then it is ended",
        min=0.1,
        max=86_400,
        metavar="SECONDS",
        show_default=False,
    ),
]


def checkpoint(ref: Ref, name: Name = None, timeout: Timeout = None, json_: Json = False) -> None:
    """Make a checkpoint while the worker keeps running, and print its name."""

    async def work() -> Checkpoint:
        with status(f"making a checkpoint of {ref} …"):
            async with connect() as client:
                return await client.workers.create_checkpoint(ref, name, timeout_s=timeout)

    made = drive(work())
    print_json(made.raw) if json_ else print(made.name)


def checkpoints(
    ref: Ref,
    remove: Annotated[
        list[str] | None, typer.Option("--rm", help="delete a checkpoint", metavar="NAME")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print only names")] = False,
    json_: Json = False,
) -> None:
    """List the checkpoints of a worker, newest first, or delete some of them."""

    async def work() -> list[Checkpoint]:
        async with connect() as client:
            for name in remove or ():
                await client.workers.delete_checkpoint(ref, name)
            return await client.workers.checkpoints(ref)

    found = drive(work())
    if json_:
        print_json([one.raw for one in found])
    elif quiet:
        print_lines(one.name for one in found)
    else:
        rows = [
            (
                one.name,
                one.state,
                size(one.size_bytes),
                "" if one.stored_bytes is None else size(one.stored_bytes),
                f"{one.duration_s:.2f} s",
                str(one.processes),
                str(one.tcp_connections),
                "automatic" if one.automatic else "by hand",
                f"{age(one.created_at)} ago",
            )
            for one in found
        ]
        columns = ("CHECKPOINT", "STATE", "SIZE", "DISK", "TOOK", "PROCS", "TCP", "MADE", "CREATED")
        print_table(columns, rows, keep=("CHECKPOINT",))


def export_(
    ref: Ref,
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", show_default=False)],
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="default: WORKER-CHECKPOINT.tar.zst")
    ] = None,
) -> None:
    """Export a checkpoint of a worker that is not running, and print the file's path."""
    destination = file or Path(f"{ref}-{checkpoint}.tar.zst")

    async def work() -> None:
        what = f"exporting {checkpoint} of {ref} …"
        with status(what) as shown:
            async with connect() as client:
                await client.workers.export_checkpoint(
                    ref, checkpoint, destination, lambda done: shown(f"{what} {size(done)}")
                )

    drive(work())
    print(destination)


def import_(
    ref: Ref,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False)],
    name: Annotated[str, typer.Option(help="what to call it here")] = "imported",
    json_: Json = False,
) -> None:
    """Import an exported checkpoint into a worker created with `worker run --no-start`."""

    async def work() -> Checkpoint:
        what, of = f"importing {file} …", upload_total(file)
        with status(what) as shown:
            async with connect() as client:
                return await client.workers.import_checkpoint(
                    ref, file, name, lambda done: shown(f"{what} {size(done)}{of}")
                )

    made = drive(work())
    print_json(made.raw) if json_ else print(made.name)

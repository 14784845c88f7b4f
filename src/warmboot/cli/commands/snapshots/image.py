"""``warmboot image``: images that are prepared, so that their containers start at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.commands.options import Cpus, Json, Memory, Quiet, RuntimeImage
from warmboot.cli.commands.snapshots.snapshot import Detach, build, standing
from warmboot.cli.commands.snapshots.wanted_shape import wanted_shape
from warmboot.cli.completion import prepared_names
from warmboot.cli.drive import connect, drive, each
from warmboot.cli.refs import by_id, find_image
from warmboot.cli.terminal.output import (
    ago,
    print_json,
    print_lines,
    print_table,
    short,
    size,
)

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.results import RuntimeSnapshot

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Prepare images of registries, so that their containers start at once.",
)


@app.command()
def prepare(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="image of a registry", show_default=False)
    ],
    cpus: Cpus = None,
    memory: Memory = None,
    runtime: RuntimeImage = None,
    detach: Detach = False,
) -> None:
    """Pull an image into a snapshot, or pull it anew, and print the snapshot's id."""
    shape = wanted_shape(cpus, memory)

    async def begin(client: Client) -> str:
        found = None if runtime is None else (await find_image(client, runtime)).id
        return await client.snapshots.prepare_image(
            image, runtime_image_id=found, **await shape(client)
        )

    build(begin, detach=detach, what=f"a snapshot with {image}")


@app.command("ls")
def list_images(quiet: Quiet = False, json_: Json = False) -> None:
    """List the images that are prepared."""

    async def work() -> tuple[list[RuntimeSnapshot], dict[str, str]]:
        async with connect() as client:
            found = await _prepared(client)
            names = {} if json_ or quiet else {i.id: i.name for i in await client.images.list()}
            return found, names

    found, names = drive(work())
    if json_:
        print_json([snapshot.raw for snapshot in found])
    elif quiet:
        print_lines(snapshot.id for snapshot in found)
    else:
        rows = [
            (
                str(snapshot.metadata["image"]),
                short(snapshot.id),
                names.get(snapshot.runtime_image_id, short(snapshot.runtime_image_id)),
                standing(snapshot),
                f"{snapshot.shape.vcpus} × {snapshot.shape.memory_mib} MiB",
                size(snapshot.stored_bytes),
                f"{snapshot.success_count}/{snapshot.failure_count}",
                ago(snapshot.last_used_at),
            )
            for snapshot in found
        ]
        columns = ("IMAGE", "SNAPSHOT", "RUNTIME", "STATE", "SHAPE", "SIZE", "OK/FAIL", "USED")
        print_table(columns, rows, keep=("IMAGE", "STATE", "SIZE", "USED"))


@app.command()
def rm(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="images that are prepared, or ids of their snapshots",
            autocompletion=prepared_names,
            show_default=False,
        ),
    ],
) -> None:
    """Remove the snapshots of images; containers that run from them run on."""

    async def act(client: Client, image: str) -> None:
        names = {image, f"{image}:latest"}
        prepared = await _prepared(client)
        found = [snapshot for snapshot in prepared if snapshot.metadata["image"] in names]
        found = found or [by_id(prepared, image, "prepared image", "warmboot image ls")]
        for snapshot in found:
            await client.snapshots.delete(snapshot.id)

    each(images, act)


async def _prepared(client: Client) -> list[RuntimeSnapshot]:
    return [snapshot for snapshot in await client.snapshots.list() if snapshot.depth == "image"]

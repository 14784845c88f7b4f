"""``warmboot runtime``: images with kernel, Docker and the guest agent."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.commands.options import Json, Quiet
from warmboot.cli.completion import image_names
from warmboot.cli.drive import INTERRUPTED, ask, connect, drive, each, usage
from warmboot.cli.refs import find_image
from warmboot.cli.terminal.output import (
    age,
    print_fields,
    print_json,
    print_lines,
    print_table,
    short,
    size,
)
from warmboot.cli.terminal.progress import status

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.results import Registered, RuntimeImage

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Manage runtime images: kernel, Docker and guest agent for VMs.",
)

Ref = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE", help="name or id", autocompletion=image_names, show_default=False
    ),
]
Refs = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE", help="names or ids", autocompletion=image_names, show_default=False
    ),
]


@app.command()
def build(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder for the image", metavar="DIR")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="build even if there is a valid image")
    ] = False,
) -> None:
    """Build a runtime image from Debian packages on this machine; needs root."""
    drive(_find_parts())
    command = [sys.executable, "-m", "warmboot.images", "build"]
    if output is not None:
        command += ["--output", str(output)]
    if force:
        command.append("--force")
    with subprocess.Popen(command) as builder:
        while True:
            try:
                code = builder.wait()
                break
            except KeyboardInterrupt:
                continue  # the builder got it too, and cleans up
    raise typer.Exit(code if code >= 0 else INTERRUPTED)


async def _find_parts() -> None:
    """Import what the builder needs besides: its own process would end in a traceback."""
    for name in ("anyio", "pydantic", "zstandard"):
        importlib.import_module(name)


@app.command()
def register(
    path: Annotated[
        Path | None, typer.Argument(help="image folder", metavar="DIR", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="name (default: the folder's)")] = None,
    kernel: Annotated[
        Path | None, typer.Option(help="kernel (single files instead of DIR)")
    ] = None,
    rootfs: Annotated[Path | None, typer.Option(help="ext4 root file system")] = None,
    initrd: Annotated[Path | None, typer.Option(help="initrd, if the kernel needs one")] = None,
    snapshot: Annotated[
        bool | None,
        typer.Option(
            "--snapshot/--no-snapshot",
            help="build its snapshot (default: MANAGER_AUTO_SNAPSHOT)",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Register an image folder or single files with the manager, and print the id.

    Its snapshot is built in the background.
    """
    bare = [file for file in (kernel, rootfs) if file is not None]
    if len(bare) != (2 if path is None else 0):
        raise usage("give an image folder, or --kernel and --rootfs")
    chosen = name or (path.resolve().name if path else "default")

    def absolute(given: Path | None) -> str | None:
        return None if given is None else str(given.absolute())

    async def work() -> tuple[Registered, str]:
        async with connect() as client:
            with status(f"checking the files of {chosen} …"):
                done = await client.images.register(
                    chosen,
                    path=absolute(path),
                    kernel=absolute(kernel),
                    rootfs=absolute(rootfs),
                    initrd=absolute(initrd),
                    build_snapshot=snapshot,
                )
            return done, (await client.images.get(done.id)).name

    registered, named = drive(work())
    print(registered.id)
    if named != chosen:
        said = f"these files are registered already, under the name {named}"
        print(said, file=sys.stderr)
    if registered.snapshot_begun:
        said = f"its snapshot {short(registered.snapshot_id or '')} is being built"
        print(f"{said}; `warmboot snapshot ls` shows it", file=sys.stderr)
    elif registered.snapshot_id is not None:
        said = f"it has the snapshot {short(registered.snapshot_id)} already"
        print(said, file=sys.stderr)
    elif snapshot is not False:
        print(f"no snapshot is built: {registered.note}", file=sys.stderr)


@app.command("ls")
def list_images(quiet: Quiet = False, json_: Json = False) -> None:
    """List runtime images."""

    found = ask(lambda client: client.images.list())
    if json_:
        print_json([image.raw for image in found])
    elif quiet:
        print_lines(image.id for image in found)
    else:
        rows = [
            (
                short(image.id),
                image.name,
                _stored(image),
                f"{age(image.created_at)} ago",
                "good" if image.damage is None else "damaged",
                image.digest[:19],
            )
            for image in found
        ]
        heads = ("IMAGE ID", "NAME", "SIZE", "REGISTERED", "STATE", "DIGEST")
        print_table(heads, rows, keep=("IMAGE ID", "STATE"))


def _stored(image: RuntimeImage) -> str:
    """Its empty disk has holes: what that occupies is little of its size."""
    return "" if image.stored_bytes is None else size(image.stored_bytes)


@app.command()
def show(ref: Ref, json_: Json = False) -> None:
    """Show a runtime image."""

    image = ask(lambda client: find_image(client, ref))
    if json_:
        print_json(image.raw)
        return
    files = ", ".join(
        f"{name} {size(entry['size_bytes'])}" for name, entry in image.raw["files"].items()
    )
    damage = image.damage or {}
    why = [str(damage[part]) for part in ("details", "resolution") if damage.get(part)]
    print_fields(
        [
            ("id", image.id),
            ("name", image.name),
            ("state", "damaged: " + "; ".join(why) if damage else "good"),
            ("digest", image.digest),
            ("path", image.path),
            ("files", files),
            ("stored", _stored(image)),
            ("agent", image.raw["agent_version"]),
            ("registered", f"{age(image.created_at)} ago"),
        ]
    )


@app.command()
def rm(refs: Refs) -> None:
    """Remove runtime images that nothing uses."""

    async def act(client: Client, ref: str) -> None:
        await client.images.delete((await find_image(client, ref)).id)

    each(refs, act)

"""What a user types to name a thing: its name, its id, or the beginning of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from warmboot.cli.completion import (
    container_names,
    living_names,
    parked_names,
    paused_names,
    running_names,
    startable_names,
)
from warmboot.model.errors import Conflict, NotFound

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.results import RuntimeImage, RuntimeSnapshot

T = TypeVar("T", "RuntimeImage", "RuntimeSnapshot")


def _one(names: Callable[[str], list[str]]) -> Any:
    return typer.Argument(
        metavar="CONTAINER",
        help="name, id or beginning of an id",
        autocompletion=names,
        show_default=False,
    )


def _several(names: Callable[[str], list[str]]) -> Any:
    return typer.Argument(
        metavar="CONTAINER",
        help="names, ids or beginnings of ids",
        autocompletion=names,
        show_default=False,
    )


Ref = Annotated[str, _one(container_names)]
Refs = Annotated[list[str], _several(container_names)]
RunningRef = Annotated[str, _one(running_names)]
RunningRefs = Annotated[list[str], _several(running_names)]
LivingRefs = Annotated[list[str], _several(living_names)]
PausedRefs = Annotated[list[str], _several(paused_names)]
ParkedRefs = Annotated[list[str], _several(parked_names)]
StartableRefs = Annotated[list[str], _several(startable_names)]


async def find_image(client: Client, ref: str) -> RuntimeImage:
    """A runtime image by name, id, digest, or the beginning of an id."""
    images = await client.images.list()
    named = [image for image in images if ref in (image.name, image.digest)]
    return named[0] if named else by_id(images, ref, "runtime image", "warmboot runtime ls")


async def find_snapshot(client: Client, ref: str) -> RuntimeSnapshot:
    """A runtime snapshot by name, id or the beginning of one."""
    snapshots = await client.snapshots.list(include_deleted=True)
    for snapshot in snapshots:
        if snapshot.name == ref and snapshot.state != "deleted":
            return snapshot
    return by_id(snapshots, ref, "runtime snapshot", "warmboot snapshot ls")


def by_id(things: Sequence[T], ref: str, what: str, command: str) -> T:
    matches = [thing for thing in things if ref and thing.id.startswith(ref.lower())]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise Conflict(
            f"{ref!r} is the beginning of {len(matches)} ids", resolution="type more of it"
        )
    raise NotFound(f"there is no {what} {ref!r}", resolution=f"list them with: {command}")

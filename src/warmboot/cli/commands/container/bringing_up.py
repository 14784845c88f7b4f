"""Begins to bring a container up, and stays until it is decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from warmboot.cli.drive import failure_of
from warmboot.cli.terminal.progress import stages_shown, status

if TYPE_CHECKING:
    from warmboot.client import Client


async def brought_up(
    client: Client, ref: str, doing: str, begin: Callable[[str], Awaitable[None]]
) -> None:
    """Begin it, and stay until it is decided: one whose VM is gone is booted first."""
    container = await client.containers.get(ref)
    with status(f"{doing} {ref} …") as show:
        async with stages_shown(client, show) as watch:
            watch(container.id)
            await begin(container.id)
            container = await client.containers.wait(container.id, "running")
    if container.state == "failed":
        raise failure_of(container)

"""``warmboot snapshot compress`` and ``unpack``: how a snapshot's memory is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.drive import FAILED, connect, drive
from warmboot.cli.entry import show_error
from warmboot.cli.refs import find_snapshot
from warmboot.cli.terminal.progress import status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from warmboot.client import Client
    from warmboot.client.results import Event, RuntimeSnapshot

    Begin = Callable[[Client, str], Awaitable[None]]

Ref = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="id, or its beginning", show_default=False)
]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="do not wait for it")]


def compress(ref: Ref, detach: Detach = False) -> None:
    """Compress the memory of a snapshot; its next boot takes longer."""
    _change(ref, lambda client, found: client.snapshots.compress(found), "compress", detach=detach)


def unpack(ref: Ref, detach: Detach = False) -> None:
    """Uncompress the memory of a snapshot."""
    _change(ref, lambda client, found: client.snapshots.unpack(found), "unpack", detach=detach)


def _change(ref: str, begin: Begin, verb: str, *, detach: bool) -> None:
    wanted = verb == "compress"

    async def work() -> tuple[RuntimeSnapshot, Event | None]:
        async with connect() as client:
            snapshot = await find_snapshot(client, ref)
            if detach or bool(snapshot.metadata.get("compressed")) is wanted:
                if detach:
                    await begin(client, snapshot.id)
                return snapshot, None
            with status(f"{verb}ing the snapshot's memory …"):
                event = await _done(client, snapshot.id, begin, verb)
            return await client.snapshots.get(snapshot.id), event

    snapshot, event = drive(work())
    if event is not None and event.kind.endswith("-failed"):
        from warmboot.client.problems import error_of

        show_error(error_of(event.data["error"]))
        raise typer.Exit(FAILED)
    print(snapshot.id)


async def _done(client: Client, snapshot_id: str, begin: Begin, verb: str) -> Event | None:
    ends = {f"runtime-snapshot.{verb}{end}" for end in ("ed", "-failed")}
    ends |= {"runtime-snapshot.deleted", "runtime-snapshot.unhealthy"}
    async with client.events.follow() as events:
        await begin(client, snapshot_id)
        async for event in events:
            if event.subject_id == snapshot_id and event.kind in ends:
                return event
    return None

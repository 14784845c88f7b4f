"""``warmboot snapshot``: VMs frozen with Docker ready."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmboot.cli.commands.options import Cpus, Json, Memory, Quiet
from warmboot.cli.commands.snapshots.forms import compress, unpack
from warmboot.cli.commands.snapshots.wanted_shape import wanted_shape
from warmboot.cli.completion import image_names
from warmboot.cli.drive import FAILED, ask, connect, drive, each, usage
from warmboot.cli.entry import show_error
from warmboot.cli.parsing import parse_weight
from warmboot.cli.refs import find_image, find_snapshot
from warmboot.cli.terminal.output import (
    age,
    ago,
    brief_age,
    print_fields,
    print_json,
    print_lines,
    print_table,
    short,
    size,
    terminal_width,
)
from warmboot.cli.terminal.progress import phrase, status
from warmboot.model.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from warmboot.cli.terminal.progress import Show
    from warmboot.client import Client
    from warmboot.client.results import Event, RuntimeSnapshot

    Begin = Callable[[Client], Awaitable[str]]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Manage snapshots: VMs frozen with Docker ready, and engines frozen in use.",
)

WIDE = 100
_CAUSES = {
    "requested": "as it was asked for",
    "registered": "as its image was registered",
    "demand": "as its shape, or its image, was often asked for",
    "unhealthy": "as the one before was unhealthy",
    "migration": "as the one before does not fit this host",
    "base": "as what the one before lies on is no longer used",
}

Ref = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="id, its beginning, or a name", show_default=False)
]
app.command()(compress)
app.command()(unpack)
Detach = Annotated[bool, typer.Option("--detach", "-d", help="do not wait for it")]


@app.command()
def create(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE",
            help="runtime image, by name or id",
            autocompletion=image_names,
            show_default=False,
        ),
    ],
    cpus: Cpus = None,
    memory: Memory = None,
    detach: Detach = False,
) -> None:
    """Build a snapshot of a runtime image (a new version if it has one), and print its id."""
    shape = wanted_shape(cpus, memory)

    async def begin(client: Client) -> str:
        found = await find_image(client, image)
        return await client.snapshots.create(found.id, **await shape(client))

    build(begin, detach=detach)


@app.command()
def rebuild(ref: Ref, detach: Detach = False) -> None:
    """Build a successor of a snapshot; the old one stays in service until it is ready."""

    async def begin(client: Client) -> str:
        return await client.snapshots.rebuild((await find_snapshot(client, ref)).id)

    build(begin, detach=detach)


def build(begin: Begin, *, detach: bool, what: str = "a runtime snapshot") -> None:
    """Begin it, wait until it is done unless ``detach``, and print its id."""

    async def work() -> tuple[str, Mapping[str, Any] | None]:
        async with connect() as client:
            if detach:
                return await begin(client), None
            with status(f"building {what} …") as show_:
                async with client.events.follow() as events:
                    snapshot_id = await begin(client)
                    if await _is_there(client, snapshot_id):
                        return snapshot_id, None
                    return snapshot_id, await _failure(client, snapshot_id, events, show_)

    snapshot_id, failure = drive(work())
    if failure is None:
        print(snapshot_id)
        return
    from warmboot.client.problems import error_of

    show_error(error_of(failure))
    raise typer.Exit(FAILED)


async def _is_there(client: Client, snapshot_id: str) -> bool:
    """Whether it is ready already: no event will tell it again."""
    with contextlib.suppress(NotFound):  # a rebuild that has failed by now
        return (await client.snapshots.get(snapshot_id)).state == "ready"
    return False


async def _failure(
    client: Client, snapshot_id: str, events: AsyncIterator[Event], show_: Show
) -> Mapping[str, Any] | None:
    """Why it could not be built, ``None`` if it could.

    As events tell it: of a rebuild that failed nothing else may be left.
    """
    async for event in events:
        what = event.kind.partition(".")[2]
        if event.subject_id != snapshot_id:
            continue
        if text := phrase(event):
            show_(text)
        elif what == "ready":
            return None
        elif what == "failed":
            failure: Mapping[str, Any] = event.data["error"]
            return failure
        elif what == "deleted":
            return {"brief": "the snapshot was deleted while it was built"}
    snapshot = await client.snapshots.get(snapshot_id)
    if snapshot.state == "ready":
        return None
    return snapshot.error or {"brief": f"the snapshot is {snapshot.state}"}


@app.command("ls")
def list_snapshots(
    all_: Annotated[bool, typer.Option("--all", "-a", help="include deleted snapshots")] = False,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """List runtime snapshots."""

    async def work() -> tuple[list[RuntimeSnapshot], dict[str, str]]:
        async with connect() as client:
            found = await client.snapshots.list(include_deleted=all_)
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
                snapshot.name or short(snapshot.id),
                names.get(snapshot.runtime_image_id, short(snapshot.runtime_image_id)),
                f"v{snapshot.version}" if snapshot.version else snapshot.depth,
                standing(snapshot),
                f"{snapshot.weight:g}" + (" pinned" if snapshot.pinned else ""),
                f"{snapshot.shape.vcpus} × {snapshot.shape.memory_mib} MiB",
                size(snapshot.stored_bytes),
                f"{snapshot.success_count}/{snapshot.failure_count}",
                ago(snapshot.last_used_at, age if terminal_width() >= WIDE else brief_age),
            )
            for snapshot in found
        ]
        columns = (
            "SNAPSHOT",
            "RUNTIME",
            "VERSION",
            "STATE",
            "WEIGHT",
            "SHAPE",
            "SIZE",
            "OK/FAIL",
            "USED",
        )
        print_table(columns, rows, keep=("SNAPSHOT", "VERSION", "STATE", "OK/FAIL"))


def standing(snapshot: RuntimeSnapshot) -> str:
    """The state, and whether a ready one cannot be used here for all that."""
    if snapshot.state != "ready" or snapshot.usable:
        return snapshot.state
    return f"ready, unfit ({(snapshot.unmet_requirement or 'host').replace('_', ' ')})"


@app.command("show")
def show_snapshot(ref: Ref, json_: Json = False) -> None:
    """Show a runtime snapshot."""

    snapshot = ask(lambda client: find_snapshot(client, ref))
    if json_:
        print_json(snapshot.raw)
        return
    error = snapshot.error or {}
    print_fields(
        [
            ("id", snapshot.id),
            ("runtime image", snapshot.runtime_image_id),
            ("name", snapshot.name or ""),
            ("depth", snapshot.depth),
            ("image", snapshot.metadata.get("image") or ""),
            ("lies on", snapshot.parent_id or ""),
            ("version", str(snapshot.version) if snapshot.version else ""),
            ("built", _CAUSES.get(snapshot.cause, snapshot.cause)),
            ("state", snapshot.state),
            ("usable here", "yes" if snapshot.usable else f"no: {snapshot.unusable_because}"),
            ("weight", f"{snapshot.weight:g}"),
            ("pinned", "yes" if snapshot.pinned else "no"),
            ("hypervisor", f"{snapshot.hypervisor} {snapshot.fc_version}"),
            ("shape", str(snapshot.shape)),
            ("path", snapshot.snapshot_path),
            ("size", size(snapshot.stored_bytes)),
            ("memory file", size(snapshot.metadata.get("mem_size_bytes"))),
            ("memory stored", _stored(snapshot)),
            ("boots", f"{snapshot.success_count} good, {snapshot.failure_count} failed"),
            ("warm boot", _seconds(snapshot)),
            ("last used", ago(snapshot.last_used_at)),
            ("replaces", snapshot.replaces or ""),
            ("created", f"{age(snapshot.created_at)} ago"),
            ("error", ". ".join(str(error.get(k)) for k in ("brief", "details") if error.get(k))),
            ("what next", str(error.get("resolution") or "")),
            ("rebuilds", _retries(snapshot)),
        ]
    )


def _seconds(snapshot: RuntimeSnapshot) -> str:
    stats = snapshot.stats
    if stats.median_s is None or stats.mean_s is None:
        return ""
    return f"{stats.median_s:.2f} s median, {stats.mean_s:.2f} s mean"


def _retries(snapshot: RuntimeSnapshot) -> str:
    failures, until = snapshot.rebuild_failures, snapshot.rebuild_not_before
    later = "" if until is None else f"the next one not before {until:%Y-%m-%d %H:%M:%S} UTC"
    if not failures:
        return later
    failed = f"{failures} failed in a row"
    if later:
        return f"{failed}, {later}"
    return f"{failed}, given up; `warmboot snapshot rebuild {short(snapshot.id)}` tries again"


@app.command()
def stats(
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMAGE]",
            help="only snapshots of this runtime image, by name or id",
            autocompletion=image_names,
            show_default=False,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Compare versions: boots, failures, and seconds per boot."""

    async def work() -> tuple[list[RuntimeSnapshot], dict[str, str]]:
        async with connect() as client:
            wanted = (await find_image(client, image)).id if image else None
            found = [
                s
                for s in await client.snapshots.list()
                if s.version and wanted in (None, s.runtime_image_id)
            ]
            return found, {i.id: i.name for i in await client.images.list()}

    found, names = drive(work())
    if json_:
        print_json([{"id": s.id, "version": s.version, **s.raw["stats"]} for s in found])
        return
    rows = [
        (
            short(s.id),
            names.get(s.runtime_image_id, short(s.runtime_image_id)),
            f"{s.shape.vcpus} × {s.shape.memory_mib} MiB",
            f"v{s.version}",
            f"{s.weight:g}",
            str(s.stats.boots),
            str(s.stats.failures),
            "" if s.stats.median_s is None else f"{s.stats.median_s:.2f}",
            "" if s.stats.mean_s is None else f"{s.stats.mean_s:.2f}",
        )
        for s in sorted(found, key=lambda s: (s.runtime_image_id, str(s.shape), s.version))
    ]
    columns = (
        "SNAPSHOT",
        "RUNTIME",
        "SHAPE",
        "VERSION",
        "WEIGHT",
        "BOOTS",
        "FAILED",
        "MEDIAN S",
        "MEAN S",
    )
    print_table(columns, rows, keep=("SNAPSHOT", "VERSION", "BOOTS", "MEDIAN S"))


@app.command()
def weight(
    ref: Ref,
    number: Annotated[str, typer.Argument(metavar="N", help="0 or more", show_default=False)],
) -> None:
    """Set the weight of a version; 0: use it only if no other is left."""
    try:
        wanted = parse_weight(number)
    except ValueError as error:
        raise usage(str(error)) from None
    _change(ref, weight=wanted)


@app.command()
def pin(ref: Ref) -> None:
    """Protect a snapshot from garbage collection."""
    _change(ref, pinned=True)


@app.command()
def unpin(ref: Ref) -> None:
    """Allow garbage collection of a pinned snapshot again."""
    _change(ref, pinned=False)


def _change(ref: str, *, weight: float | None = None, pinned: bool | None = None) -> None:
    async def work() -> RuntimeSnapshot:
        async with connect() as client:
            found = await find_snapshot(client, ref)
            return await client.snapshots.change(found.id, weight=weight, pinned=pinned)

    print(drive(work()).id)


def _stored(snapshot: RuntimeSnapshot) -> str:
    if snapshot.metadata.get("compressed"):
        return f"compressed, {size(snapshot.metadata.get('compressed_size_bytes'))}"
    stored = snapshot.metadata.get("mem_stored_bytes")
    return "" if stored is None else f"plain, {size(stored)}"


@app.command()
def rm(
    refs: Annotated[
        list[str],
        typer.Argument(metavar="SNAPSHOT", help="ids, or their beginnings", show_default=False),
    ],
) -> None:
    """Remove snapshots; their files are deleted when no VM uses them."""

    async def act(client: Client, ref: str) -> None:
        await client.snapshots.delete((await find_snapshot(client, ref)).id)

    each(refs, act)

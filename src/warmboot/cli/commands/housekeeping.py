"""``warmboot gc``: collects garbage, and shows what, why and how much that frees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.commands.options import Json
from warmboot.cli.drive import connect, drive
from warmboot.cli.terminal.output import print_json, print_table, short, size
from warmboot.cli.terminal.progress import status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from warmboot.client.garbage import Collection, Garbage


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="only print what would be removed, and why")
    ] = False,
    json_: Json = False,
) -> None:
    """Remove deleted and unused snapshots, leftovers, and caches over their budget."""

    async def work() -> Collection:
        async with connect() as client:
            with status("looking for garbage …"):
                return await client.garbage.collect(dry_run=dry_run)

    done = drive(work())
    if json_:
        print_json(done.raw)
        return
    if done.removed or done.kept:
        print_table(("WHAT", "NAME", "SIZE", "WHY"), _rows(done), keep=("WHAT", "SIZE"))
        print()
    print(_summary(done))


def _rows(done: Collection) -> Sequence[Sequence[str]]:
    return [
        *(_row(one, one.reason) for one in done.removed),
        *(_row(one, f"stays this time: {one.reason}") for one in done.kept),
    ]


def _row(one: Garbage, why: str) -> Sequence[str]:
    is_long = one.kind in ("snapshot", "snapshot-folder", "image-folder", "archive")
    return one.kind, short(one.name) if is_long else one.name, size(one.size_bytes), why


def _summary(done: Collection) -> str:
    if not done.removed:
        return "nothing to remove" if not done.kept else "nothing was removed"
    things = f"{len(done.removed)} thing{'s' if len(done.removed) > 1 else ''}"
    would = "would free" if done.dry_run else "freed"
    return f"{things}, {would} {size(done.freed_bytes)}"

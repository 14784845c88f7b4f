"""``warmboot events``: lists events and follows them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.drive import connect, drive
from warmboot.cli.terminal.output import short

if TYPE_CHECKING:
    from warmboot.client.results import Event


def events(
    follow: Annotated[
        bool,
        typer.Option("--follow/--no-follow", "-f", help="continue with new events as they happen"),
    ] = True,
    after: Annotated[
        int | None, typer.Option(min=0, help="start after this event id (0: all stored events)")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="show only events of this kind", metavar="KIND")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object per line")] = False,
) -> None:
    """Show events as they happen, until ctrl-c."""

    async def work() -> None:
        async with connect() as client:
            if not follow:
                last = after or 0
                while page := await client.events.list(last, 1000, kind or ()):
                    for event in page:
                        _print(event, json_)
                    last = page[-1].id
                return
            async with client.events.follow(after, kind or ()) as coming:
                async for event in coming:
                    _print(event, json_)

    drive(work())


def _print(event: Event, as_json: bool) -> None:
    if as_json:
        print(json.dumps(event.raw, ensure_ascii=False), flush=True)
        return
    told = {name: value for name, value in event.data.items() if _is_brief(value)}
    data = " ".join(f"{name}={_value(value)}" for name, value in told.items())
    time = event.at.astimezone().strftime("%H:%M:%S")
    print(f"{time} {short(event.subject_id)} {event.kind} {data}".rstrip(), flush=True)


def _is_brief(value: object) -> bool:
    """Whether it has its place in a line: ``inspect`` and ``--json`` show the rest."""
    if isinstance(value, list):
        return not any(isinstance(part, dict) for part in value)
    return value is not None


def _value(value: object) -> str:
    if isinstance(value, dict) and "brief" in value:
        return str(value["brief"])
    if isinstance(value, float):
        return f"{value:.2f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

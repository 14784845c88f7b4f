"""``warmboot serve`` and ``warmboot doctor``: the only commands that are not the client's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmboot.cli.drive import FAILED, connect, drive
from warmboot.cli.output import print_json
from warmboot.model.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from warmboot.client.results import Check


def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on", metavar="IP")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="and the port")] = None,
) -> None:
    """Run the manager until a signal; settings come from MANAGER_* variables."""
    given: dict[str, Any] = {"host": host, "port": port}

    async def work() -> None:
        from warmboot import bootstrap

        await bootstrap.serve(_settings(given))

    drive(work())


def _settings(given: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from warmboot.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        name = name if name.startswith("CONTAINER_") else f"MANAGER_{name}"
        raise InvalidRequest(
            f"the setting {name} is not valid",
            details=first["msg"],
            resolution="correct the environment variable",
        ) from error


def doctor(json_: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """Say what works on this machine, what does not, why, and what to do."""
    checks = drive(_checks())
    if json_:
        print_json(
            [{field: getattr(check, field) for field in _FIELDS} for check in checks],
        )
    else:
        _print_checks(checks)
    if any(check.required and not check.ok for check in checks):
        raise typer.Exit(FAILED)


_FIELDS = ("name", "ok", "required", "summary", "why", "remedy")


async def _checks() -> Sequence[Check]:
    """The manager's own, or, when none runs, those of this process."""
    try:
        async with connect(timeout_s=60) as client:
            return await client.system.doctor()
    except Unavailable:
        from warmboot import bootstrap

        found: Sequence[Any] = await bootstrap.local_doctor(_settings({}))
        return found


def _print_checks(checks: Sequence[Check]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from warmboot.cli.output import console

    out = console()
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        mark, style = ("ok  ", "green") if check.ok else ("note", "yellow")
        if not check.ok and check.required:
            mark, style = "FAIL", "bold red"
        out.print(Text(mark, style), Text(check.name.ljust(width), "bold"), "", check.summary)
        for label, text in (("why: ", check.why), ("do:  ", check.remedy)):
            if text and not check.ok:
                out.print(Padding(Text(label + text), (0, 0, 0, 7 + width), expand=False))
    failed = [check.name for check in checks if check.required and not check.ok]
    out.print()
    if failed:
        out.print(f"Not ready: {', '.join(failed)}.")
    else:
        out.print("Ready: start the manager with: warmboot serve")

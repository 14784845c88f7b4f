"""``warmboot serve`` and ``warmboot doctor``: the only commands that are not the client's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmboot.cli.drive import FAILED, connect, drive, usage
from warmboot.cli.terminal.output import print_json
from warmboot.cli.terminal.progress import status
from warmboot.model.errors import Unauthorized, Unavailable, WarmbootError

if TYPE_CHECKING:
    from warmboot.client.results import Check


def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on", metavar="IP")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="port to listen on")] = None,
) -> None:
    """Run the manager in the foreground; MANAGER_* variables configure it."""
    given: dict[str, Any] = {"host": host, "port": port}

    async def work() -> None:
        from warmboot.bootstrap.lock import check_host

        settings = _settings(given)
        check_host(settings)
        from warmboot.bootstrap import service  # takes longer than a refusal should

        await service.serve(settings)

    drive(work())


def _settings(given: dict[str, Any]) -> Any:
    from warmboot.settings import read_settings

    return read_settings(**{name: value for name, value in given.items() if value is not None})


def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="set this machine up for workers, and test it")
    ] = False,
    restart_engine: Annotated[
        bool, typer.Option("--restart-engine", help="with --fix: restart Docker if necessary")
    ] = False,
    remove: Annotated[
        bool,
        typer.Option("--remove-runtime", help="remove the runtime of workers, if nothing uses it"),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Check what works on this machine, what does not, why, and what to do."""
    if remove:
        if fix:
            raise usage("it cannot be used with --fix", "--remove-runtime")
        drive(_removed(as_json=json_))
        return
    if restart_engine and not fix:
        raise usage("it requires --fix", "--restart-engine")
    fixed: dict[str, Any] = drive(_fixed(restart_engine, quiet=json_)) if fix else {}
    try:
        checks, runs = drive(_checks(fixed=fix))
    except typer.Exit:
        if fix and json_:
            print_json({**fixed, "checks": None})
        raise
    listed = [{field: getattr(check, field) for field in _FIELDS} for check in checks]
    if json_:
        print_json({**fixed, "checks": listed} if fix else listed)
    else:
        _print_checks(checks, runs)
    failed = any(check.required and not check.ok for check in checks)
    unproven = fix and fixed["verified"] is None
    if failed or unproven or not all(change["ok"] for change in fixed.get("changes", ())):
        raise typer.Exit(FAILED)


async def _fixed(restart_engine: bool, *, quiet: bool) -> dict[str, Any]:
    """Mend what can be mended, then prove it: ``changes`` and ``verified`` (or ``why_not``)."""
    from warmboot.bootstrap import workers

    settings, tell = _settings({}), (lambda _: None) if quiet else print
    with status("looking at what workers need …"):
        changes = await workers.fix_workers(settings, restart_engine=restart_engine)
    for change in changes:
        tell(f"{'done:' if change.ok else 'could not:'} {change.what} {change.details}".rstrip())
    if not changes:
        tell("nothing had to be changed")
    told: dict[str, Any] = {
        "changes": [{"what": c.what, "ok": c.ok, "details": c.details} for c in changes],
        "verified": None,
    }
    try:
        with status("pausing and resuming a test container …"):
            proof = await workers.verify_workers(settings)
    except WarmbootError as error:
        told["why_not"] = error.as_dict()
        tell(f"not verified: {error}".replace("\n", "; "))
        return told
    told["verified"] = {
        "pause_s": round(proof.pause_s, 3),
        "resume_s": round(proof.resume_s, 3),
        "count_before": proof.count_before,
        "count_after": proof.count_after,
        "user": proof.user,
        "lock": proof.lock,
    }
    held = "a child and a lock" if proof.lock else "a child"
    tell(
        f"verified: a test container was paused in {proof.pause_s:.2f} s and resumed in "
        f"{proof.resume_s:.2f} s; it went on from {proof.count_before} to {proof.count_after}, as "
        f"{proof.user}, with {held}"
    )
    return told


async def _removed(*, as_json: bool) -> None:
    from warmboot.bootstrap import workers

    changes = await workers.remove_runtime(_settings({}))
    if as_json:
        print_json({"changes": [{"what": change.what} for change in changes]})
        return
    for change in changes:
        print(f"done: {change.what}")
    if not changes:
        print("the runtime of workers is not installed")


READY = "start the manager with: warmboot serve"
_FIELDS = ("name", "ok", "required", "summary", "why", "remedy")


async def _checks(*, fixed: bool) -> tuple[Sequence[Check], bool]:
    """The manager's own, or, when none runs or it is not for this user, those of this process.

    And whether they are the manager's. One that was named may be on another machine.
    """
    try:
        async with connect(timeout_s=60) as client:
            return await client.system.doctor(), True
    except (Unavailable, Unauthorized) as error:
        if os.environ.get("WARMBOOT_URL"):
            raise (_nothing_else_checked(error) if fixed else error) from None
        from warmboot.bootstrap import service

        found: Sequence[Any] = await service.local_doctor(_settings({}))
        return found, False


def _nothing_else_checked(error: WarmbootError) -> WarmbootError:
    local = "unset WARMBOOT_URL to check this machine"
    return WarmbootError(
        f"nothing but workers was seen to on this machine: {error.brief}",
        details=error.details,
        resolution="; ".join(filter(None, (error.resolution, local))),
    )


def _print_checks(checks: Sequence[Check], runs: bool) -> None:
    from rich.text import Text

    from warmboot.cli.terminal.output import console, hanging

    out = console()
    width = max((len(check.name) for check in checks), default=0)
    indent = len("FAIL ") + width + 2
    for check in checks:
        mark, style = ("ok  ", "green") if check.ok else ("note", "yellow")
        if not check.ok and check.required:
            mark, style = "FAIL", "bold red"
        summary = hanging(check.summary, indent)
        out.print(Text(mark, style), Text(check.name.ljust(width), "bold"), "", summary)
        for label, text in (("why: ", check.why), ("do:  ", check.remedy)):
            if text and not check.ok:
                out.print(" " * indent + label + hanging(text, indent + len(label)))
    failed = [check.name for check in checks if check.required and not check.ok]
    out.print()
    if failed:
        out.print(f"Not ready: {', '.join(failed)}.")
    else:
        out.print(f"Ready: {'the manager runs.' if runs else READY}")

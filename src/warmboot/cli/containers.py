"""What is done with containers that are there: ps, inspect, logs, exec, stop, start, rm, wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmboot.cli.attach import carry, has_terminal
from warmboot.cli.completion import container_names
from warmboot.cli.drive import FAILED, connect, drive, failure_of, show_error, usage
from warmboot.cli.output import (
    age,
    brief_age,
    print_fields,
    print_json,
    print_lines,
    print_table,
    short,
    terminal_width,
)
from warmboot.cli.parsing import parse_environment
from warmboot.cli.progress import stages_shown, status
from warmboot.cli.terminal import Detached, terminal_size, write_output
from warmboot.model.errors import Unavailable, WarmbootError

if TYPE_CHECKING:
    from datetime import datetime

    from warmboot.client import Client
    from warmboot.client.results import Container, Stage

Ref = Annotated[
    str,
    typer.Argument(
        metavar="CONTAINER",
        help="name, id or beginning of an id",
        autocompletion=container_names,
        show_default=False,
    ),
]
Refs = Annotated[
    list[str],
    typer.Argument(
        metavar="CONTAINER",
        help="names, ids or beginnings of ids",
        autocompletion=container_names,
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="as the API has it")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="ids only")]
StopTime = Annotated[
    float, typer.Option("--time", "-t", min=0, max=3600, help="seconds before it is killed")
]
WIDE = 110


def ps(
    all_: Annotated[bool, typer.Option("--all", "-a", help="those too that do not run")] = False,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """List containers."""

    async def work() -> list[Container]:
        async with connect() as client:
            return await client.containers.list(all_states=all_)

    found = sorted(drive(work()), key=lambda container: container.created_at, reverse=True)
    if json_:
        print_json([container.raw for container in found])
    elif quiet:
        print_lines(container.id for container in found)
    else:
        _print_containers(found)


def _print_containers(found: list[Container]) -> None:
    wide = terminal_width() >= WIDE
    columns = ["CONTAINER ID", "IMAGE", "STATUS", "BOOT", "PORTS", "NAMES"]
    if wide:
        columns[2:2] = ["COMMAND", "CREATED"]
    rows = []
    for container in found:
        ports = ", ".join(_port(str(port)) for port in container.ports)
        row = [
            short(container.id),
            container.image,
            _status(container, age if wide else brief_age),
            container.boot_method or "",
            ports,
            container.name,
        ]
        if wide:
            row[2:2] = [" ".join(container.command or ()), f"{age(container.created_at)} ago"]
        rows.append(row)
    print_table(columns, rows, keep=("CONTAINER ID", "BOOT", "NAMES"))


def _port(text: str) -> str:
    return text.removeprefix("127.0.0.1:").removesuffix("/tcp")


def _status(container: Container, told: Callable[[datetime | None], str]) -> str:
    match container.state:
        case "running":
            return f"Up {told(container.started_at)}{' (Stalled)' if container.stalled else ''}"
        case "exited":
            return f"Exited ({container.exit_code}) {told(container.finished_at)} ago"
        case other:
            return other.capitalize()


def inspect(refs: Refs, json_: Json = False) -> None:
    """Show containers: what was asked, what runs, how it was booted."""

    async def work() -> list[Container]:
        async with connect() as client:
            return [await client.containers.get(ref) for ref in refs]

    found = drive(work())
    if json_:
        print_json([container.raw for container in found])
        return
    for number, container in enumerate(found):
        if number:
            print()
        _print_container(container)


def _print_container(container: Container) -> None:
    raw = container.raw
    boot = container.boot_method or ""
    if container.boot_s is not None:
        boot += f", Docker answered after {container.boot_s:.2f} s"
    why = ": ".join(x for x in (container.fallback_message, container.fallback_details) if x)
    stages = ", ".join(_stage(stage) for stage in container.stages)
    error = container.error or {}
    print_fields(
        [
            ("id", container.id),
            ("name", container.name),
            ("image", container.image),
            ("state", _status(container, age)),
            ("command", " ".join(container.command or ())),
            ("boot", boot),
            ("cold because", why),
            ("stages", stages),
            ("shape", str(container.shape)),
            ("ports", ", ".join(str(port) for port in container.ports)),
            ("environment", " ".join(f"{k}={v}" for k, v in raw["environment"].items())),
            ("labels", " ".join(f"{k}={v}" for k, v in raw["labels"].items())),
            ("snapshot", _snapshot(raw)),
            ("tried before", "; ".join(_attempt(a) for a in raw["boot_attempts"])),
            ("runtime", raw["runtime_image_id"] or ""),
            ("vm", raw["vm_id"] or ""),
            ("docker id", (raw["docker_id"] or "")[:12]),
            ("created", f"{age(container.created_at)} ago"),
            ("error", ". ".join(str(error.get(k)) for k in ("brief", "details") if error.get(k))),
            ("what next", str(error.get("resolution") or "")),
        ]
    )


def _stage(stage: Stage) -> str:
    steps = ", ".join(f"{step.name} {step.duration_s * 1000:.1f} ms" for step in stage.steps)
    return f"{stage.name} {stage.duration_s:.2f} s" + (f" ({steps})" if steps else "")


def _snapshot(raw: Mapping[str, Any]) -> str:
    version = raw["snapshot_version"]
    return "" if version is None else f"version {version} {raw['runtime_snapshot_id'] or '(gone)'}"


def _attempt(attempt: Mapping[str, Any]) -> str:
    return f"version {attempt['version']}: {attempt['message']}"


def logs(
    ref: Ref,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until it exits")] = False,
    tail: Annotated[str, typer.Option("--tail", "-n", help="last lines only")] = "all",
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="with times")] = False,
) -> None:
    """Show what a container has written."""
    if tail != "all" and not (tail.isascii() and tail.isdigit()):
        raise usage("it takes a number, or all", "--tail")
    lines = None if tail == "all" else int(tail)

    async def work() -> None:
        async with connect() as client:
            async for chunk in client.containers.logs(
                ref, follow=follow, tail=lines, timestamps=timestamps
            ):
                write_output(chunk.stream, chunk.data)

    drive(work())


def exec_(
    ref: Ref,
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="what to run", show_default=False)
    ],
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="pass on standard input")
    ] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="give it a terminal")] = False,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="K=V, or K", metavar="K=V")
    ] = None,
    user: Annotated[str, typer.Option("--user", "-u", help="user or user:group")] = "",
    workdir: Annotated[str, typer.Option("--workdir", "-w", help="folder to run in")] = "",
) -> None:
    """Run a command in a running container; exits with its code."""
    if interactive and tty and not has_terminal():
        raise usage("the input is no terminal; leave out -t", "-t")
    try:
        environment = parse_environment(env or (), ())
    except ValueError as error:
        raise usage(str(error), "-e") from None
    rows, columns = terminal_size(0) if tty else (None, None)

    async def work() -> int:
        async with (
            connect() as client,
            client.containers.exec(
                ref,
                command,
                tty=tty,
                stdin=interactive,
                environment=[f"{name}={value}" for name, value in environment.items()],
                user=user,
                working_dir=workdir,
                rows=rows,
                columns=columns,
            ) as session,
        ):
            try:
                code = await carry(session, tty=tty, stdin=interactive)
            except Detached:
                return 0
            if code is None:
                raise Unavailable("the command's exit code is not known")
            return code

    raise typer.Exit(drive(work()))


def _each(refs: list[str], act: Callable[[Client, str], Awaitable[Any]]) -> None:
    """Do it to all of them, and print the names of those that it worked for, as docker does."""

    async def work() -> int:
        failed = 0
        async with connect() as client:
            for ref in refs:
                try:
                    await act(client, ref)
                except WarmbootError as error:
                    failed += 1
                    show_error(error)
                else:
                    print(ref, flush=True)
        return FAILED if failed else 0

    raise typer.Exit(drive(work()))


def _quick(refs: list[str], text: str, act: Callable[[Client, str], Awaitable[None]]) -> None:
    async def shown(client: Client, ref: str) -> None:
        with status(f"{text} {ref} …"):
            await act(client, ref)

    _each(refs, shown)


def stop(refs: Refs, time: StopTime = 10.0) -> None:
    """Stop containers."""
    _quick(refs, "stopping", lambda client, ref: client.containers.stop(ref, time))


def start(refs: Refs) -> None:
    """Start containers that have exited or failed."""

    async def act(client: Client, ref: str) -> None:
        await _brought_up(client, ref, "starting", client.containers.start)

    _each(refs, act)


def restart(refs: Refs, time: StopTime = 10.0) -> None:
    """Stop and start containers."""

    async def act(client: Client, ref: str) -> None:
        await _brought_up(
            client, ref, "restarting", lambda id_: client.containers.restart(id_, time)
        )

    _each(refs, act)


async def _brought_up(
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


def rm(
    refs: Refs,
    force: Annotated[bool, typer.Option("--force", "-f", help="also when it runs")] = False,
) -> None:
    """Remove containers and their VMs."""
    _quick(refs, "removing", lambda client, ref: client.containers.delete(ref, force=force))


def wait(
    refs: Refs,
    until: Annotated[
        str, typer.Option(help="booted, running or exited", metavar="STATE")
    ] = "exited",
    timeout: Annotated[float | None, typer.Option(min=0, help="seconds", metavar="S")] = None,
) -> None:
    """Wait for containers; prints their exit codes (or their states)."""
    if until not in ("booted", "running", "exited"):
        raise usage("it is booted, running or exited", "--until")

    async def work() -> list[Container]:
        async with connect() as client:
            return await asyncio.gather(
                *(client.containers.wait(ref, until, timeout) for ref in refs)
            )

    with status(f"waiting for {', '.join(refs)} …"):
        found = drive(work())
    for container in found:
        ended = until == "exited" and container.exit_code is not None
        print(container.exit_code if ended else container.state)
    reached = all(_reached(container, until) for container in found)
    raise typer.Exit(0 if reached else FAILED)


def _reached(container: Container, until: str) -> bool:
    if until == "booted":
        return container.boot_method is not None and container.state != "failed"
    return container.state == "exited" or container.state == until

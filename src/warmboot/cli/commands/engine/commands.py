"""``warmboot engine``: Docker engines of one's own, each in a VM, for every client of Docker."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmboot.cli.commands.engine.certificates import write_certificates
from warmboot.cli.commands.engine.context import check_context, made_context, remove_context
from warmboot.cli.commands.engine.docker_logins import RegistryAuth, docker_logins
from warmboot.cli.commands.engine.environment import environment_of
from warmboot.cli.commands.engine.run import run
from warmboot.cli.commands.engine.start import Folder, HostPort, Tcp, engine_body, started
from warmboot.cli.commands.options import (
    Cold,
    Cpus,
    Disk,
    Idle,
    Json,
    Label,
    Memory,
    ParkAtShutdown,
    Quiet,
    RuntimeImage,
    TimeToLive,
)
from warmboot.cli.completion import engine_names, snapshot_names
from warmboot.cli.drive import ask, connect, drive, each, tell_missing, those_there, usage
from warmboot.cli.parsing import parse_duration, parse_labels, parse_tcp
from warmboot.cli.terminal.foreground import note
from warmboot.cli.terminal.output import (
    age,
    print_json,
    print_lines,
    print_table,
    short,
    with_reason,
)
from warmboot.cli.terminal.progress import status
from warmboot.model.errors import WarmbootError

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.engines import Engine

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Manage Docker engines of one's own, each in a VM.",
)
app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})(
    run
)

Ref = Annotated[
    str,
    typer.Argument(
        metavar="ENGINE",
        help="name, id or beginning of an id",
        autocompletion=engine_names,
        show_default=False,
    ),
]
Refs = Annotated[
    list[str],
    typer.Argument(
        metavar="ENGINE",
        help="names, ids or beginnings of ids",
        autocompletion=engine_names,
        show_default=False,
    ),
]


@app.command()
def create(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="name (default: a generated one)", show_default=False),
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(help="user who gets the socket (default: you)", metavar="USER"),
    ] = None,
    cpus: Cpus = None,
    memory: Memory = None,
    disk: Disk = None,
    label: Label = None,
    time_to_live: TimeToLive = None,
    host_port: HostPort = None,
    folder: Folder = None,
    registry_auth: RegistryAuth = None,
    tcp: Tcp = None,
    rm: Annotated[bool, typer.Option("--rm", help="remove it when it has stopped")] = False,
    idle: Idle = None,
    park_at_shutdown: ParkAtShutdown = False,
    cold: Cold = False,
    runtime: RuntimeImage = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="snapshot of an engine, from which it goes on with all that ran there",
            metavar="SNAPSHOT",
            autocompletion=snapshot_names,
        ),
    ] = None,
    context: Annotated[
        bool, typer.Option("--context", help="create a docker context of the same name")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="do not wait until it runs")
    ] = False,
) -> None:
    """Create and start a Docker engine in its own VM, and print its id when it runs."""
    try:
        body, wanted = engine_body(owner, cpus, memory, disk, time_to_live, host_port, folder)
        body["labels"] = parse_labels(label or ())
        if tcp is not None:
            body["tcp"] = parse_tcp(tcp)
        if idle is not None:
            body["park_after_idle_s"] = parse_duration(idle)
    except ValueError as error:
        raise usage(str(error)) from None
    body |= {"auto_remove": rm, "boot": "cold" if cold else "auto"}
    if name is not None:
        body["name"] = name
    if park_at_shutdown:
        body["park_at_shutdown"] = True
    if from_ is not None:
        body["snapshot"] = from_

    async def work() -> Engine:
        if context and name is not None:
            await asyncio.to_thread(check_context, name)
        async with connect() as client:
            logins = await docker_logins(registry_auth)
            engine = await started(client, body, wanted, runtime, logins=logins, detach=detach)
        if context:
            await asyncio.to_thread(made_context, engine.name, engine.docker_host)
        return engine

    print(drive(work()).id)


@app.command()
def snapshot(
    ref: Ref,
    name: Annotated[
        str, typer.Option(help="name of the snapshot", metavar="NAME", show_default=False)
    ],
) -> None:
    """Freeze a running engine, which runs on, and print the id of its snapshot."""

    async def work() -> str:
        async with connect() as client:
            with status("freezing the engine …"):
                return await client.engines.snapshot(ref, name)

    print(drive(work()))


@app.command("ls")
def list_(quiet: Quiet = False, json_: Json = False) -> None:
    """List engines."""

    found = ask(lambda client: client.engines.list())
    if json_:
        print_json([engine.raw for engine in found])
    elif quiet:
        print_lines(engine.id for engine in found)
    else:
        rows = [
            [
                short(engine.id),
                engine.name,
                _status(engine),
                engine.boot_method or "",
                str(engine.shape),
                engine.socket,
            ]
            for engine in found
        ]
        columns = ["ENGINE ID", "NAME", "STATUS", "BOOT", "SHAPE", "SOCKET"]
        print_table(columns, rows, keep=("ENGINE ID", "NAME", "BOOT", "SOCKET"))


def _status(engine: Engine) -> str:
    if engine.state in ("running", "paused"):
        remark = " (Paused)" if engine.state == "paused" else ""
        return f"Up {age(engine.started_at)}{remark}"
    status = engine.state.capitalize()
    return with_reason(status, engine.error) if engine.state == "failed" else status


@app.command()
def inspect(refs: Refs) -> None:
    """Show engines as JSON: configuration, state, how they were booted, use of their disks."""

    found, missing = ask(lambda client: those_there(refs, lambda ref: _inspected(client, ref)))
    print_json(found)
    tell_missing(missing)


async def _inspected(client: Client, ref: str) -> Any:
    engine = await client.engines.get(ref)
    shown = {**engine.raw, "disk": await client.engines.disk(engine.id)}
    if engine.raw["tcp"] is not None:
        with contextlib.suppress(WarmbootError):  # they are lost: `certs` says so
            found = await client.engines.certificates(engine.id)
            shown["certificates_expire_at"] = found["expires_at"]
    return shown


@app.command()
def socket(
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="ENGINE",
            help="name, id or beginning of an id (default: your default engine)",
            autocompletion=engine_names,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the path of an engine's socket, or of that which makes your default engine."""

    async def work() -> str:
        if ref is not None:
            return (await _get(ref)).socket
        from warmboot.client.endpoint import default_engine_socket

        return str(default_engine_socket())

    print(drive(work()))


@app.command()
def certs(
    ref: Ref,
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    renew: Annotated[
        bool, typer.Option("--renew", help="make new ones first: the former do not count any more")
    ] = False,
) -> None:
    """Write what docker needs to reach an engine over TCP to a folder: its DOCKER_CERT_PATH."""

    async def work() -> str:
        async with connect() as client:
            if renew:
                await client.engines.renew_certificates(ref)
            found = await client.engines.certificates(ref)
        write_certificates(folder, found)
        return found["expires_at"]

    note(f"valid until {drive(work())}")


@app.command()
def env(ref: Ref) -> None:
    """Print shell commands that select an engine: eval "$(warmboot engine env NAME)"."""
    for name, value in environment_of(drive(_get(ref))).items():
        print(f"export {name}={shlex.quote(value)}")


@app.command()
def login(
    ref: Ref,
    registries: Annotated[
        list[str] | None,
        typer.Argument(metavar="REGISTRY", help="registries (default: all)", show_default=False),
    ] = None,
) -> None:
    """Have an engine pull, push and build with your docker logins, in the place of earlier ones."""

    async def work() -> str:
        logins = await docker_logins(registries or [""])
        async with connect() as client:
            await client.engines.log_in(ref, logins)
        return "\n".join(sorted(one["registry"] for one in logins))

    print(drive(work()))


async def _get(ref: str) -> Engine:
    async with connect() as client:
        return await client.engines.get(ref)


@app.command()
def logs(ref: Ref) -> None:
    """Show what an engine's VM has said on its console since it was booted or restored."""

    print(ask(lambda client: client.engines.boot_log(ref)), end="")


@app.command()
def start(refs: Refs) -> None:
    """Start engines that are stopped or have failed, on their disks."""

    async def act(client: Client, ref: str) -> None:
        await client.engines.start(ref)
        engine = await client.engines.wait(ref)
        if engine.state == "failed":
            from warmboot.client.problems import error_of

            raise error_of(engine.error or {"brief": f"the engine {engine.name} failed"})

    each(refs, act)


@app.command()
def stop(
    refs: Refs,
    time: Annotated[
        float | None,
        typer.Option(
            "--time", "-t", min=0, help="seconds before its containers are killed", metavar="S"
        ),
    ] = None,
) -> None:
    """Stop engines: their containers, then their VMs. Their disks are kept."""

    async def act(client: Client, ref: str) -> None:
        await client.engines.stop(ref, time)

    each(refs, act)


@app.command()
def pause(refs: Refs) -> None:
    """Have engines stand still in memory, with all that runs in them."""

    async def act(client: Client, ref: str) -> None:
        await client.engines.pause(ref)

    each(refs, act)


@app.command()
def unpause(refs: Refs) -> None:
    """Have paused engines go on where they were."""

    async def act(client: Client, ref: str) -> None:
        await client.engines.unpause(ref)

    each(refs, act)


@app.command()
def park(refs: Refs) -> None:
    """Put engines' memory on the disk, and end their VMs."""

    async def act(client: Client, ref: str) -> None:
        await client.engines.park(ref)

    each(refs, act)


@app.command()
def wake(refs: Refs) -> None:
    """Have parked engines go on where they were."""

    async def act(client: Client, ref: str) -> None:
        await client.engines.wake(ref)

    each(refs, act)


@app.command()
def rm(
    refs: Refs,
    force: Annotated[bool, typer.Option("--force", "-f", help="also if it runs")] = False,
) -> None:
    """Remove engines, with all that is in them."""

    async def act(client: Client, ref: str) -> None:
        engine = await client.engines.get(ref)
        await client.engines.delete(engine.id, force=force)
        remove_context(engine.name, engine.docker_host)

    each(refs, act)

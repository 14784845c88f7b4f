"""Starts an engine for a command: the request, its progress, and why it failed."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmboot.cli.parsing import (
    parse_cpus,
    parse_disk,
    parse_duration,
    parse_given_folder,
    parse_memory,
)
from warmboot.cli.refs import find_image
from warmboot.cli.terminal.foreground import note
from warmboot.cli.terminal.progress import stages_shown, status
from warmboot.model.errors import WarmbootError

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.engines import Engine


HostPort = Annotated[
    list[int] | None,
    typer.Option(
        "--host-port",
        help="TCP port of this machine's 127.0.0.1 that its containers may reach, at 198.18.0.1",
        metavar="PORT",
    ),
]


Folder = Annotated[
    list[str] | None,
    typer.Option(
        "--folder",
        help="folder of this machine that its containers can mount, with the owner's rights",
        metavar="DIR[:ro]",
    ),
]


Tcp = Annotated[
    str | None,
    typer.Option(
        "--tcp",
        help="port of this machine's 127.0.0.1, or address and port, at which clients with a "
        "certificate of the engine reach it over TLS",
        metavar="[IP:]PORT",
    ),
]


def engine_body(
    owner: str | None,
    cpus: str | None,
    memory: str | None,
    disk: str | None,
    time_to_live: str | None,
    host_ports: list[int] | None,
    folders: list[str] | None,
) -> tuple[dict[str, Any], dict[str, int | None]]:
    """The request's body, and the parts of a shape that were asked for. ``ValueError``."""
    body: dict[str, Any] = {"owner_uid": _uid_of(owner)}
    if disk is not None:
        body["disk_mib"] = parse_disk(disk)
    if host_ports:
        body["host_ports"] = host_ports
    if folders:
        body["folders"] = [parse_given_folder(one) for one in folders]
    if time_to_live is not None:
        body["time_to_live_s"] = parse_duration(time_to_live)
    wanted = {
        "vcpus": parse_cpus(cpus) if cpus else None,
        "memory_mib": parse_memory(memory) if memory else None,
    }
    return body, wanted


async def started(
    client: Client,
    body: dict[str, Any],
    wanted: dict[str, int | None],
    runtime: str | None,
    *,
    logins: Sequence[Mapping[str, str]] = (),
    detach: bool = False,
) -> Engine:
    """An engine that runs; if it does not come to that, nothing is left, and it is raised why."""
    if runtime is not None:
        body["runtime_image_id"] = (await find_image(client, runtime)).id
    if any(wanted.values()):
        shape = dict((await client.system.info())["default_shape"])
        shape.update({key: value for key, value in wanted.items() if value is not None})
        body["shape"] = shape
    if detach:
        return await client.engines.get(await _created(client, body, logins))
    with status("creating the engine …") as show:
        async with stages_shown(client, show) as watch:
            engine_id = await _created(client, body, logins)
            watch(engine_id)
            try:
                engine = await client.engines.wait(engine_id)
            except BaseException:  # interrupted, too; raised again
                await remove(client, engine_id)
                raise
    if engine.state != "running":
        await remove(client, engine_id)
        from warmboot.client.problems import error_of

        raise error_of(engine.error or {"brief": f"the engine {engine.name} failed"})
    if engine.boot_method == "cold" and engine.fallback_reason not in (None, "requested"):
        details = f" ({engine.fallback_details})" if engine.fallback_details else ""
        note(f"booted cold: {engine.fallback_message}{details}")
    elif sys.stderr.isatty() and engine.boot_s is not None:
        note(f"{engine.boot_method} boot in {engine.boot_s:.2f} s")
    return engine


async def _created(
    client: Client, body: dict[str, Any], logins: Sequence[Mapping[str, str]]
) -> str:
    """Its id. It is logged in before it runs: whoever waits at its socket pulls with that."""
    engine_id = await client.engines.create(**body)
    if logins:
        try:
            await client.engines.log_in(engine_id, logins)
        except BaseException:  # interrupted, too; raised again
            await remove(client, engine_id)
            raise
    return engine_id


async def remove(client: Client, engine_id: str) -> None:
    """Remove the engine, if the manager can be asked."""
    with contextlib.suppress(WarmbootError):
        await client.engines.delete(engine_id, force=True)


def _uid_of(owner: str | None) -> int:
    if owner is None:
        return os.getuid()
    if owner.isdecimal():
        return int(owner)
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise ValueError(f"there is no user {owner!r} on this machine") from None

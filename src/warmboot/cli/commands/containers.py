"""Commands for existing containers: inspect, logs, port, stop, kill, rm, wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmboot.cli.commands.container.bringing_up import brought_up
from warmboot.cli.commands.options import Format, Json, parse_template
from warmboot.cli.commands.ps import status_of
from warmboot.cli.docker.inspected import state
from warmboot.cli.drive import (
    FAILED,
    ask,
    connect,
    drive,
    each,
    tell_missing,
    those_there,
    usage,
)
from warmboot.cli.entry import show_error
from warmboot.cli.parsing import parse_moment
from warmboot.cli.refs import LivingRefs, ParkedRefs, PausedRefs, Ref, Refs, RunningRefs
from warmboot.cli.terminal.log_lines import Tail, wanted_lines
from warmboot.cli.terminal.output import age, print_fields, print_json, print_lines, short
from warmboot.cli.terminal.progress import status
from warmboot.cli.terminal.raw_output import pass_on
from warmboot.model.conventions.program_start import assignments
from warmboot.model.conventions.signals import signal_name
from warmboot.model.errors import NotFound, WarmbootError

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.results import Container, Stage
    from warmboot.client.usage import HealthReport

_HEALTH = "health_report"
"""What ``GET …/health`` tells, in what is shown of a container."""

StopTime = Annotated[
    float | None,
    typer.Option(
        "--time",
        "--timeout",
        "-t",
        min=0,
        max=3600,
        help="seconds before it is killed (default: the container's, or 10)",
    ),
]


def inspect(refs: Refs, format_: Format = None, json_: Json = False) -> None:
    """Show the configuration and state of containers, and how they were booted."""
    template = None if format_ is None else parse_template(format_)
    if template is not None and template.table:
        raise usage("a table is of `warmboot ps`; here each container is one line", "--format")

    asks = template is None or template.asks_for("State", _HEALTH)

    async def look(client: Client, ref: str) -> tuple[Container, HealthReport | None]:
        container = await client.containers.get(ref)
        return container, await _health(client, container) if asks else None

    found, missing = ask(lambda client: those_there(refs, lambda ref: look(client, ref)))
    told = [{**one.raw, _HEALTH: None if health is None else health.raw} for one, health in found]
    if json_:
        print_json(told)
    elif template is not None:
        try:
            print_lines([template.line(one, {"State": state(one)}) for one in told])
        except ValueError as error:
            raise usage(str(error), "--format") from None
    else:
        for number, (container, health) in enumerate(found):
            if number:
                print()
            _print_container(container, _last_check(health))
    tell_missing(missing)


async def _health(client: Client, container: Container) -> HealthReport | None:
    """What its health check has found; a courtesy, as its VM has to be asked."""
    if container.state in ("running", "exited") and container.health not in (None, "none"):
        with contextlib.suppress(WarmbootError):
            return await client.containers.health(container.id)
    return None


def _last_check(health: HealthReport | None) -> str:
    """How the last run of its health check has ended."""
    for probe in () if health is None else health.probes[-1:]:
        return f"exit code {probe.exit_code}: {' '.join(probe.output.split())}".rstrip(": ")
    return ""


def _print_container(container: Container, last_check: str) -> None:
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
            ("state", status_of(container, age)),
            ("health", "" if container.health in (None, "none") else str(container.health)),
            ("last check", last_check),
            ("command", " ".join(container.command or ())),
            ("boot", boot),
            ("cold because", why),
            ("stages", stages),
            ("shape", str(container.shape)),
            ("ports", ", ".join(str(port) for port in container.ports)),
            ("user", raw["user"]),
            ("folder", raw["working_dir"]),
            ("host name", raw["hostname"]),
            ("environment", " ".join(assignments(raw["environment"]))),
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
    version, snapshot_id = raw["snapshot_version"], raw["runtime_snapshot_id"] or "(gone)"
    if version is None:
        return ""
    # One with an image in it, or of a VM in use, has no version.
    return f"version {version} {snapshot_id}" if version else str(snapshot_id)


def _attempt(attempt: Mapping[str, Any]) -> str:
    version = attempt["version"]
    tried = f"version {version}" if version else f"snapshot {short(attempt['snapshot_id'])}"
    return f"{tried}: {attempt['message']}"


def logs(
    ref: Ref,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="follow the output until the container exits")
    ] = False,
    tail: Tail = "all",
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="show timestamps")] = False,
    since: Annotated[
        str | None,
        typer.Option(help="show output since a time, or a duration ago: 10m", metavar="TIME"),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="show output before a time, or a duration ago", metavar="TIME"),
    ] = None,
    boot: Annotated[bool, typer.Option("--boot", help="show its guest's console instead")] = False,
) -> None:
    """Show the output of a container."""
    if boot:
        if follow or timestamps or since or until or tail != "all":
            raise usage("it cannot be combined with another option", "--boot")
        drive(_show_boot_log(ref))
        return
    lines = wanted_lines(tail)
    try:
        first, last = (None if text is None else parse_moment(text) for text in (since, until))
    except ValueError as error:
        raise usage(str(error)) from None

    async def work() -> None:
        async with connect() as client:
            chunks = client.containers.logs(
                ref, follow=follow, tail=lines, timestamps=timestamps, since=first, until=last
            )
            await pass_on((chunk.stream, chunk.data) async for chunk in chunks)

    drive(work())


async def _show_boot_log(ref: str) -> None:
    async with connect() as client:
        said = await client.containers.boot_log(ref)
    if not said:
        typer.echo("Its guest has said nothing, or nothing since it was restored.", err=True)
    # It is the guest's to write: no terminal shall obey it.
    print_lines(
        "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)
        for line in said.splitlines()
    )


def port(
    ref: Ref,
    wanted: Annotated[
        str | None,
        typer.Argument(
            metavar="PORT", help="a port of the container: 80, 53/udp", show_default=False
        ),
    ] = None,
) -> None:
    """Show the published ports of a container."""

    container = ask(lambda client: client.containers.get(ref))
    if wanted is None:
        print_lines(
            f"{p.container_port}/{p.protocol} -> {p.host_ip}:{p.host_port}" for p in container.ports
        )
        return
    number, _, protocol = wanted.partition("/")
    found = [
        f"{p.host_ip}:{p.host_port}"
        for p in container.ports
        if (str(p.container_port), p.protocol) == (number, protocol.lower() or "tcp")
    ]
    if not found:
        show_error(NotFound(f"{container.name} does not publish {wanted}"))
        raise typer.Exit(FAILED)
    print_lines(found)


def _quick(
    refs: list[str],
    text: str,
    act: Callable[[Client, str], Awaitable[None]],
    *,
    may_be_missing: bool = False,
) -> None:
    async def shown(client: Client, ref: str) -> None:
        with status(f"{text} {ref} …"):
            await act(client, ref)

    each(refs, shown, may_be_missing=may_be_missing)


def stop(
    refs: LivingRefs,
    time: StopTime = None,
    signal: Annotated[
        str | None,
        typer.Option("--signal", "-s", help="signal to send first (default: the container's)"),
    ] = None,
) -> None:
    """Stop containers."""
    name = None if signal is None else _signal(signal)
    _quick(refs, "stopping", lambda client, ref: client.containers.stop(ref, time, name))


def kill(
    refs: LivingRefs,
    signal: Annotated[
        str, typer.Option("--signal", "-s", help="name or number of the signal")
    ] = "KILL",
) -> None:
    """Send a signal to containers."""
    name = _signal(signal)
    _quick(refs, "killing", lambda client, ref: client.containers.kill(ref, name))


def _signal(text: str) -> str:
    try:
        return signal_name(text)
    except ValueError as error:
        raise usage(str(error), "--signal") from None


def pause(refs: RunningRefs) -> None:
    """Have containers stand still in memory, with their VMs."""
    _quick(refs, "pausing", lambda client, ref: client.containers.pause(ref))


def unpause(refs: PausedRefs) -> None:
    """Have paused containers go on where they were."""
    _quick(refs, "unpausing", lambda client, ref: client.containers.unpause(ref))


def park(refs: RunningRefs) -> None:
    """Put containers' memory on the disk, and end their VMs."""
    _quick(refs, "parking", lambda client, ref: client.containers.park(ref))


def wake(refs: ParkedRefs) -> None:
    """Have parked containers go on where they were."""
    _quick(refs, "waking", lambda client, ref: client.containers.wake(ref))


def restart(refs: Refs, time: StopTime = None) -> None:
    """Stop and start containers."""

    async def act(client: Client, ref: str) -> None:
        await brought_up(
            client, ref, "restarting", lambda id_: client.containers.restart(id_, time)
        )

    each(refs, act)


def rm(
    refs: Refs,
    force: Annotated[
        bool,
        typer.Option(
            "--force", "-f", help="also remove running containers; it is no error if there is none"
        ),
    ] = False,
    volumes: Annotated[bool, typer.Option("--volumes", "-v", hidden=True)] = False,
) -> None:
    """Remove containers and their VMs."""
    del volumes  # docker's; they are in the VM, and go with it
    _quick(
        refs,
        "removing",
        lambda client, ref: client.containers.delete(ref, force=force),
        may_be_missing=force,
    )


def wait(
    refs: LivingRefs,
    until: Annotated[
        str,
        typer.Option(help="state to wait for: booted, running, healthy or exited", metavar="STATE"),
    ] = "exited",
    timeout: Annotated[
        float | None, typer.Option(min=0, help="seconds to wait at most", metavar="S")
    ] = None,
) -> None:
    """Wait for containers, and print their exit codes (or their states)."""
    if until not in ("booted", "running", "healthy", "exited"):
        raise usage("it must be booted, running, healthy or exited", "--until")

    async def work() -> list[Container]:
        async with connect() as client:
            return await asyncio.gather(
                *(client.containers.wait(ref, until, timeout) for ref in refs)
            )

    with status(f"waiting for {', '.join(refs)} …"):
        found = drive(work())
    for container in found:
        ended = until == "exited" and container.exit_code is not None
        health = container.health if until == "healthy" and container.state == "running" else None
        print(container.exit_code if ended else health or container.state)
    reached = all(_reached(container, until) for container in found)
    raise typer.Exit(0 if reached else FAILED)


def _reached(container: Container, until: str) -> bool:
    if until == "booted":
        return container.boot_method is not None and container.state != "failed"
    if until == "healthy":
        return container.state == "running" and container.health == "healthy"
    # With its exit code, one that is being removed has ended before.
    ended = container.state == "exited" or (
        container.state == "deleting" and container.exit_code is not None
    )
    return ended or container.state == until or (until, container.state) == ("running", "paused")

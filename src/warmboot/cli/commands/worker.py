"""``warmboot worker``: containers of this machine's engine that are paused with their memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmboot.cli.commands.options import Env, EnvFile, Json, Label, Name, Quiet
from warmboot.cli.commands.worker_checkpoints import (
    Ref,
    Timeout,
    checkpoint,
    checkpoints,
    export_,
    import_,
)
from warmboot.cli.completion import worker_names
from warmboot.cli.drive import FAILED, ask, connect, drive, each, usage
from warmboot.cli.entry import show_error
from warmboot.cli.parsing import parse_environment, parse_labels
from warmboot.cli.refusals import in_words
from warmboot.cli.terminal.log_lines import Tail, wanted_lines
from warmboot.cli.terminal.output import (
    age,
    print_json,
    print_lines,
    print_table,
    short,
    with_reason,
)
from warmboot.cli.terminal.progress import status
from warmboot.cli.terminal.raw_output import pass_on
from warmboot.cli.terminal.worker_view import print_worker, tell_changed_files
from warmboot.model.errors import WarmbootError

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.worker_results import Worker

LONGEST_PERIOD_S = 366 * 86_400

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Manage workers: containers that are paused with their memory.",
)

Refs = Annotated[
    list[str],
    typer.Argument(
        metavar="WORKER",
        help="names, ids or beginnings of ids",
        autocompletion=worker_names,
        show_default=False,
    ),
]
Named = Annotated[
    str | None, typer.Option("--checkpoint", "-c", help="name of the checkpoint", metavar="NAME")
]


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})
def run(
    image: Annotated[str, typer.Argument(metavar="IMAGE", show_default=False)],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", show_default=False)
    ] = None,
    name: Name = None,
    env: Env = None,
    env_file: EnvFile = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(
            "--volume", "-v", help="mount a folder or volume: source:target[:ro]", metavar="S:T"
        ),
    ] = None,
    network: Annotated[str, typer.Option(help="network of the Docker engine")] = "host",
    label: Label = None,
    idle: Annotated[
        float | None,
        typer.Option(help="pause after this many idle seconds", min=1, max=LONGEST_PERIOD_S),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(help="seconds between automatic checkpoints", min=1, max=LONGEST_PERIOD_S),
    ] = None,
    keep: Annotated[int, typer.Option(help="number of automatic checkpoints to keep", min=1)] = 3,
    pause_at_shutdown: Annotated[
        bool,
        typer.Option(
            "--pause-at-shutdown", help="pause when the manager stops, resume when it starts"
        ),
    ] = False,
    wake_on: Annotated[
        list[int] | None, typer.Option(help="TCP port whose connections wake it", metavar="PORT")
    ] = None,
    no_start: Annotated[
        bool, typer.Option("--no-start", help="only create it, for `worker import`")
    ] = False,
    json_: Json = False,
) -> None:
    """Create and start a worker, and print its id when it runs."""
    try:
        fields: dict[str, Any] = {
            "environment": parse_environment(env or (), env_file or (), command or ()),
            "labels": parse_labels(label or ()),
            "mounts": [_mount(text) for text in volume or ()],
        }
    except ValueError as error:
        raise usage(str(error)) from None
    fields |= {"network": network, "start": not no_start}
    fields["policy"] = {
        "pause_after_idle_s": idle,
        "checkpoint_every_s": every,
        "keep_checkpoints": keep,
        "pause_at_shutdown": pause_at_shutdown,
        "wake_on": wake_on or [],
    }
    if name is not None:
        fields["name"] = name
    if command:
        fields["command"] = command

    async def work() -> Worker:
        with status(f"creating a worker of {image} …"):
            async with connect() as client:
                worker_id = await client.workers.create(image=image, **fields)
                return await client.workers.wait(worker_id, "settled")

    worker = drive(work())
    if worker.error is not None:
        _fail(worker)
    print_json(worker.raw) if json_ else print(worker.id)


def _mount(text: str) -> dict[str, Any]:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts) or parts[2:] not in ([], ["ro"], ["rw"]):
        raise ValueError(f"{text!r} is not a mount; write source:target or source:target:ro")
    return {"source": parts[0], "target": parts[1], "read_only": parts[2:] == ["ro"]}


def _fail(worker: Worker) -> None:
    from warmboot.client.problems import error_of

    show_error(error_of(worker.error or {"brief": f"{worker.name} is {worker.state}"}))
    raise typer.Exit(FAILED)


@app.command("ls")
def list_workers(quiet: Quiet = False, json_: Json = False) -> None:
    """List workers."""

    found = ask(lambda client: client.workers.list())
    if json_:
        print_json([worker.raw for worker in found])
    elif quiet:
        print_lines(worker.id for worker in found)
    else:
        rows = [
            (short(w.id), w.image, _with_reason(w), f"{age(w.created_at)} ago", w.name)
            for w in found
        ]
        print_table(("WORKER", "IMAGE", "STATE", "CREATED", "NAME"), rows, keep=("WORKER", "NAME"))


def _with_reason(worker: Worker) -> str:
    status = _status(worker)
    return with_reason(status, worker.error) if worker.state == "failed" else status


def _status(worker: Worker) -> str:
    if worker.state == "paused" and worker.paused_at is not None:
        return f"paused for {age(worker.paused_at)}"
    if worker.state == "exited" and worker.exit_code is not None:
        return f"exited ({worker.exit_code})"
    if worker.state == "creating" and worker.docker_id and not worker.raw["start"]:
        return "created, not started"
    return worker.state


@app.command()
def show(ref: Ref, json_: Json = False) -> None:
    """Show a worker."""

    worker = ask(lambda client: client.workers.get(ref))
    print_json(worker.raw) if json_ else print_worker(worker, _status(worker))


def _each(
    refs: list[str], text: str, act: Callable[[Client, str], Awaitable[Any]], as_json: bool
) -> None:
    """Do it to all of them; print the names of those that it worked for, or how they are now."""

    async def work() -> int:
        failed, done = 0, []
        async with connect() as client:
            for ref in refs:
                try:
                    with status(f"{text} {ref} …"):
                        outcome = await act(client, ref)
                except WarmbootError as error:
                    failed += 1
                    show_error(in_words(error))
                    continue
                done.append(outcome)
                if not as_json:
                    print(ref, flush=True)
        if as_json:
            print_json([one.raw for one in done if one is not None])
        return FAILED if failed else 0

    raise typer.Exit(drive(work()))


@app.command()
def pause(
    refs: Refs, checkpoint: Named = None, timeout: Timeout = None, json_: Json = False
) -> None:
    """Pause workers: save their memory to disk and end their processes."""

    async def act(client: Client, ref: str) -> Worker:
        return await client.workers.pause(ref, checkpoint, timeout_s=timeout)

    _each(refs, "pausing", act, json_)


@app.command()
def resume(
    refs: Refs,
    checkpoint: Named = None,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="leave its files as they are now")
    ] = False,
    close_connections: Annotated[
        bool, typer.Option("--close-connections", help="it finds its TCP connections closed")
    ] = False,
    timeout: Timeout = None,
    json_: Json = False,
) -> None:
    """Resume workers from their newest checkpoint, or from a named one."""

    async def act(client: Client, ref: str) -> Worker:
        resumed = await client.workers.resume(
            ref,
            checkpoint,
            keep_files=keep_files,
            close_connections=close_connections,
            timeout_s=timeout,
        )
        tell_changed_files(ref, resumed)
        return resumed

    _each(refs, "resuming", act, json_)


@app.command()
def wake(refs: Refs, json_: Json = False) -> None:
    """Make workers run, whether they are paused or not."""
    _each(refs, "waking", lambda client, ref: client.workers.wake(ref), json_)


@app.command()
def rm(
    refs: Refs,
    force: Annotated[
        bool,
        typer.Option(
            "--force", "-f", help="also remove running workers; it is no error if there is none"
        ),
    ] = False,
) -> None:
    """Remove workers, with their containers and checkpoints."""

    async def act(client: Client, ref: str) -> None:
        with status(f"removing {ref} …"):
            await client.workers.delete(ref, force=force)

    each(refs, act, may_be_missing=force)


@app.command()
def logs(
    ref: Ref,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="follow the output until the worker ends")
    ] = False,
    tail: Tail = "all",
) -> None:
    """Show the output of a worker."""
    lines = wanted_lines(tail)

    async def work() -> None:
        async with connect() as client:
            chunks = client.workers.logs(ref, follow=follow, tail=lines)
            await pass_on(("stdout", chunk) async for chunk in chunks)

    drive(work())


app.command()(checkpoint)
app.command()(checkpoints)
app.command("export")(export_)
app.command("import")(import_)

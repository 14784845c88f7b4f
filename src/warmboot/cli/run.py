"""``warmboot run``: create a container and, without ``-d``, stay with it until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmboot.cli.attach import carry, has_terminal
from warmboot.cli.completion import image_names
from warmboot.cli.drive import connect, drive, failure_of, usage
from warmboot.cli.output import size
from warmboot.cli.parsing import parse_cpus, parse_environment, parse_memory, parse_port
from warmboot.cli.progress import stages_shown, status
from warmboot.cli.terminal import Detached, write_output
from warmboot.model.errors import Conflict, NotFound

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.results import Container

OUR_FAILURE = 125
STOP_TIMEOUT_S = 10.0


def run(
    image: Annotated[
        str,
        typer.Argument(metavar="IMAGE", help="a reference, e.g. redis:7", show_default=False),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="instead of the image's own", show_default=False),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="print the id and leave it running")
    ] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="pass on standard input")
    ] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="give it a terminal")] = False,
    name: Annotated[str | None, typer.Option(help="its name")] = None,
    publish: Annotated[
        list[str] | None,
        typer.Option("--publish", "-p", help="\\[ip:]\\[host:]container\\[/udp]", metavar="PORT"),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", help="K=V, or K to pass on its value", metavar="K=V"),
    ] = None,
    env_file: Annotated[
        list[Path] | None, typer.Option(help="a file of K=V lines", metavar="FILE")
    ] = None,
    rm: Annotated[bool, typer.Option("--rm", help="remove it when it has ended")] = False,
    entrypoint: Annotated[str | None, typer.Option(help="instead of the image's own")] = None,
    cpus: Annotated[str | None, typer.Option(help="whole CPUs", metavar="N")] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", "-m", help="e.g. 512m, 1g", metavar="SIZE")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="K=V", help="a label")
    ] = None,
    cold: Annotated[bool, typer.Option("--cold", help="boot the VM afresh")] = False,
    archive: Annotated[
        Path | None,
        typer.Option(help="upload the image from docker save or OCI tar", metavar="FILE"),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="the runtime image, by name or id", autocompletion=image_names),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Run a container in a VM of its own; it starts warm where it can.

    Exits with the container's exit code, or 125 when warmboot itself failed.
    In a terminal (-it), ctrl-p ctrl-q leaves it running.
    """
    if interactive and tty and not detach and not has_terminal():
        raise usage("the input is no terminal; leave out -t", "-t", OUR_FAILURE)
    try:
        body: dict[str, Any] = {
            "image": image,
            "environment": parse_environment(env or (), env_file or ()),
            "ports": [parse_port(port) for port in publish or ()],
            "labels": dict(_label(entry) for entry in label or ()),
            "tty": tty,
            "stdin_open": interactive,
            # In the foreground we remove it ourselves, once its last output has been shown.
            "auto_remove": rm and detach,
            "boot": "cold" if cold else "auto",
        }
        wanted = {
            "vcpus": parse_cpus(cpus) if cpus else None,
            "memory_mib": parse_memory(memory) if memory else None,
        }
    except ValueError as error:
        raise usage(str(error), exit_code=OUR_FAILURE) from None
    if name is not None:
        body["name"] = name
    if command:
        body["command"] = command
    if entrypoint is not None:
        body["entrypoint"] = [entrypoint] if entrypoint else []
    work = _Run(body, wanted, archive, runtime, quiet=quiet)
    if detach:
        print(drive(work.detached(), OUR_FAILURE))
        return
    raise typer.Exit(drive(work.attached(interactive=interactive, tty=tty, rm=rm), OUR_FAILURE))


def _label(entry: str) -> tuple[str, str]:
    name, _, value = entry.partition("=")
    return name, value


class _Run:
    """One ``warmboot run``."""

    def __init__(
        self,
        body: dict[str, Any],
        wanted: dict[str, int | None],
        archive: Path | None,
        runtime: str | None,
        *,
        quiet: bool,
    ) -> None:
        self.body, self.wanted = body, wanted
        self.archive, self.runtime, self.quiet = archive, runtime, quiet

    async def detached(self) -> str:
        """The id of a container that runs (or has even ended)."""
        async with connect() as client:
            return (await self._started(client)).id

    async def attached(self, *, interactive: bool, tty: bool, rm: bool) -> int:
        """Stay until it ends; the exit code."""
        async with connect() as client:
            detached = False
            created: list[str] = []
            try:
                container = await self._started(client, created)
                return await _stay(client, container, interactive=interactive, tty=tty)
            except Detached:
                detached = True
                print("\r", file=sys.stderr)
                if rm:
                    _note(f"it goes on; remove it with: warmboot rm -f {created[0][:8]}")
                return 0
            finally:
                if rm and created and not detached:
                    with contextlib.suppress(NotFound):
                        await asyncio.shield(client.containers.delete(created[0], force=True))

    async def _started(self, client: Client, created: list[str] | None = None) -> Container:
        """Create it, and wait for it to run. ``created`` gets its id."""
        with _quiet_status(self.quiet) as show:
            await self._complete(client, show)
            async with stages_shown(client, show) as watch:
                container_id = await client.containers.create(**self.body)
                watch(container_id)
                if created is not None:
                    created.append(container_id)
                container = await client.containers.wait(container_id, "running")
        if container.state == "failed":
            raise failure_of(container)
        _tell_boot(container, quiet=self.quiet)
        return container

    async def _complete(self, client: Client, show: Any) -> None:
        """What the body still needs of the server: archive, runtime image, default shape."""
        if self.archive is not None:
            self.body["archive"] = await self._upload(client, self.archive, show)
        if self.runtime is not None:
            from warmboot.cli.lookup import find_image

            self.body["runtime_image_id"] = (await find_image(client, self.runtime)).id
        if any(self.wanted.values()):
            shape = dict((await client.system.info())["default_shape"])
            shape.update({key: value for key, value in self.wanted.items() if value is not None})
            self.body["shape"] = shape

    async def _upload(self, client: Client, archive: Path, show: Any) -> str:
        if not archive.is_file():
            raise NotFound(
                f"there is no archive {archive}",
                resolution=f"make one with: docker save -o {archive} {self.body['image']}",
            )
        total = size(archive.stat().st_size)
        return await client.archives.upload(
            archive, lambda sent: show(f"uploading {archive.name} … {size(sent)} of {total}")
        )


@contextlib.contextmanager
def _quiet_status(quiet: bool) -> Iterator[Any]:
    if quiet:
        yield lambda _: None
        return
    with status("creating the container …") as show:
        yield show


async def _stay(client: Client, container: Container, *, interactive: bool, tty: bool) -> int:
    """Show its output (and pass on input) until it ends."""
    ended = asyncio.create_task(client.containers.wait(container.id))
    try:
        code = None
        if interactive:
            code = await _attached(client, container, tty=tty)
        else:
            await _shown(client, container)
        if code is not None:
            return code
        last = await ended
    finally:
        ended.cancel()
        await asyncio.wait({ended})
    if last.state == "failed":
        raise failure_of(last)
    return OUR_FAILURE if last.exit_code is None else last.exit_code


async def _attached(client: Client, container: Container, *, tty: bool) -> int | None:
    try:
        async with client.containers.attach(container.id) as session:
            return await carry(session, tty=tty, stdin=True)
    except Conflict:
        # It ended before we came: what it wrote is in its log.
        await _shown(client, container)
        return None


async def _shown(client: Client, container: Container) -> None:
    async def show() -> None:
        async for chunk in client.containers.logs(container.id, follow=True):
            write_output(chunk.stream, chunk.data)

    async with _signals_stop(client, container):
        await show()


@contextlib.asynccontextmanager
async def _signals_stop(client: Client, container: Container) -> AsyncIterator[None]:
    """SIGINT and SIGTERM stop the container; its output goes on until it has ended.

    A second signal ends us at once.
    """
    loop = asyncio.get_running_loop()
    current = asyncio.current_task()
    stopping: list[asyncio.Task[None]] = []

    def stop() -> None:
        if stopping:
            _note(f"leaving {container.name} as it is")
            if current is not None:
                current.cancel()
            return
        stopping.append(asyncio.create_task(client.containers.stop(container.id, STOP_TIMEOUT_S)))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
        for task in stopping:
            await task
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        for task in stopping:
            task.cancel()


def _tell_boot(container: Container, *, quiet: bool) -> None:
    if container.boot_method == "cold" and container.fallback_reason not in (None, "requested"):
        details = f" ({container.fallback_details})" if container.fallback_details else ""
        _note(f"booted cold: {container.fallback_message}{details}")
    elif sys.stderr.isatty() and not quiet and container.boot_s is not None:
        _note(f"{container.boot_method} boot in {container.boot_s:.2f} s")


def _note(text: str) -> None:
    dim = sys.stderr.isatty()
    print(typer.style(text, dim=True) if dim else text, file=sys.stderr, flush=True)

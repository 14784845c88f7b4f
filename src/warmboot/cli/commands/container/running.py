"""Starts a container for ``warmboot run``; a start that fails leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from warmboot.cli.drive import connect, failure_of
from warmboot.cli.terminal.foreground import Stay, note
from warmboot.cli.terminal.output import size, upload_total
from warmboot.cli.terminal.progress import stages_shown, status
from warmboot.cli.terminal.signals import Signals
from warmboot.cli.terminal.terminal import Detached
from warmboot.model.errors import InvalidRequest, NotFound, WarmbootError

if TYPE_CHECKING:
    from warmboot.client import Client, Session
    from warmboot.client.results import Container

T = TypeVar("T")


class Run:
    """One ``warmboot run`` or ``create``.

    What ``wanted`` has of a shape counts, the rest is the default's.
    """

    def __init__(
        self,
        body: dict[str, Any],
        wanted: dict[str, int | None],
        archive: Path | None,
        runtime: str | None,
        *,
        quiet: bool,
        keep: bool,
    ) -> None:
        self._body, self._wanted = body, wanted
        self._archive, self._runtime = archive, runtime
        self._quiet, self._keep = quiet, keep
        self._container_id: str | None = None

    async def created(self) -> str:
        """The id of a container that is not started yet."""
        with _status(self._quiet) as show:
            async with connect() as client:
                await self._complete(client, show)
                return await client.containers.create(**self._body, start=False)

    async def detached(self) -> str:
        """The id of a container that runs (or has even ended)."""
        with Signals() as signals:
            async with connect() as client:
                return (await self._started(client, signals)).id

    async def attached(self, *, interactive: bool, tty: bool, rm: bool) -> int:
        """Stay until it ends; the exit code."""
        self._body["attach"] = True
        with Signals() as signals:
            async with connect() as client, contextlib.AsyncExitStack() as closed:
                container, session = await self._attached(client, signals, closed)
                stay = Stay(client, container, signals)
                try:
                    code = await stay.run(session, stdin=interactive, tty=tty)
                except Detached:
                    print("\r", file=sys.stderr)
                    return 0
                except asyncio.CancelledError:
                    if (interrupted := signals.settle()) is None:
                        raise
                    if rm:
                        await self._remove(client)
                    else:
                        stay.left()
                    return interrupted
                except WarmbootError as error:
                    if (unstarted := await self._unstarted(client)) is not None:
                        raise unstarted from error
                    # What still runs goes on, and the manager removes it when it has ended.
                    if rm:
                        await self._remove(client, force=False)
                    raise
                if (unstarted := await self._unstarted(client)) is not None:
                    raise unstarted
                if rm:
                    await self._remove(client)
                return code

    async def _started(self, client: Client, signals: Signals) -> Container:
        """Create it, and wait for it to run; if it does not come to that, nothing is left."""

        async def running(container_id: str) -> Container:
            return await client.containers.wait(container_id, "running")

        container = await self._begun(client, signals, running)
        if container.state in ("failed", "deleting"):
            raise await self._failed(client, container)
        _tell_boot(container, quiet=self._quiet)
        return container

    async def _attached(
        self, client: Client, signals: Signals, closed: contextlib.AsyncExitStack
    ) -> tuple[Container, Session]:
        """Create it, and attach to it before it is started; ``closed`` ends the session."""

        async def attached(container_id: str) -> Session:
            attaching = client.containers.attach(container_id, logs=False)
            return await closed.enter_async_context(attaching)

        try:
            session = await self._begun(client, signals, attached)
        except WarmbootError as error:
            if self._container_id is None:
                raise
            container = await client.containers.wait(self._container_id, "running")
            if container.state not in ("failed", "deleting"):
                raise
            raise await self._failed(client, container) from error
        assert self._container_id is not None
        # With --rm one that was quick may be gone by now, and how it was is told to who waits.
        container = await client.containers.wait(self._container_id, "running", 0)
        _tell_boot(container, quiet=self._quiet)
        return container, session

    async def _begun(
        self, client: Client, signals: Signals, come: Callable[[str], Awaitable[T]]
    ) -> T:
        """Create it, and wait until we have ``come`` to it; a signal undoes it."""
        try:
            with _status(self._quiet) as show:
                return await self._brought_up(client, show, come)
        except asyncio.CancelledError:
            if (interrupted := signals.settle()) is None:
                raise
            await self._remove(client)
            raise typer.Exit(interrupted) from None

    async def _unstarted(self, client: Client) -> WarmbootError | None:
        """Why it could not be started, if that is what its session ended with."""
        assert self._container_id is not None
        with contextlib.suppress(WarmbootError):  # what cannot be asked is not told
            container = await client.containers.wait(self._container_id, "running")
            # With --rm the manager may have begun to remove it.
            ended = container.state in ("failed", "deleting")
            if ended and container.error is not None and container.started_at is None:
                return await self._failed(client, container)
        return None

    async def _failed(self, client: Client, container: Container) -> WarmbootError:
        """Why it could not be started; nothing of it is left, unless it is to be kept."""
        error = failure_of(container)
        if not self._keep:
            await self._remove(client)
            if not error.resolution:
                error.resolution = "to look into it, keep it: warmboot run --keep …"
        return error

    async def _brought_up(
        self, client: Client, show: Any, come: Callable[[str], Awaitable[T]]
    ) -> T:
        await self._complete(client, show)
        async with stages_shown(client, show) as watch:
            creating = asyncio.create_task(client.containers.create(**self._body))
            try:
                self._container_id = await asyncio.shield(creating)
            except asyncio.CancelledError:
                # It was asked for: without its id it could not be removed.
                with contextlib.suppress(WarmbootError):
                    self._container_id = await creating
                raise
            watch(self._container_id)
            return await come(self._container_id)

    async def _remove(self, client: Client, *, force: bool = True) -> None:
        """As far as the manager can be asked; it knows itself what it has to remove."""
        if self._container_id is not None:
            with contextlib.suppress(WarmbootError):
                await client.containers.delete(self._container_id, force=force)

    async def _complete(self, client: Client, show: Any) -> None:
        """What the body still needs of the server: archive, runtime image, default shape."""
        if self._archive is not None:
            self._body["archive"] = await self._upload(client, self._archive, show)
        if self._runtime is not None:
            from warmboot.cli.refs import find_image

            self._body["runtime_image_id"] = (await find_image(client, self._runtime)).id
        if any(self._wanted.values()):
            shape = dict((await client.system.info())["default_shape"])
            shape.update({key: value for key, value in self._wanted.items() if value is not None})
            self._body["shape"] = shape

    async def _upload(self, client: Client, archive: Path, show: Any) -> str:
        _check_archive(archive, str(self._body["image"]))
        of = upload_total(archive)
        return await client.archives.upload(
            archive, lambda sent: show(f"uploading {archive.name} … {size(sent)}{of}")
        )


def _check_archive(archive: Path, image: str) -> None:
    if archive.is_dir():
        raise InvalidRequest(
            f"{archive} is a folder, and an archive is a file",
            resolution=f"of an OCI layout: tar -C {archive} -cf image.tar . ; of an image that "
            f"docker has: docker save -o image.tar {image}",
        )
    if archive.exists():
        return
    if str(archive) == "-":
        raise NotFound(
            "there is no archive '-'",
            resolution=f"from a pipe: docker save {image} | warmboot run --archive /dev/stdin "
            f"{image}",
        )
    raise NotFound(
        f"there is no archive {archive}",
        resolution=f"create one with: docker save -o {archive} {image}",
    )


@contextlib.contextmanager
def _status(quiet: bool) -> Iterator[Any]:
    if quiet:
        yield lambda _: None
        return
    with status("creating the container …") as show:
        yield show


def _tell_boot(container: Container, *, quiet: bool) -> None:
    if container.boot_method == "cold" and container.fallback_reason not in (None, "requested"):
        details = f" ({container.fallback_details})" if container.fallback_details else ""
        note(f"booted cold: {container.fallback_message}{details}")
    elif sys.stderr.isatty() and not quiet and container.boot_s is not None:
        note(f"{container.boot_method} boot in {container.boot_s:.2f} s")

"""The client's methods for containers (``/v1/containers``)."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack

from warmboot.client.containers.conveniences import Finished, accepts, address_of, collected
from warmboot.client.containers.fields import ContainerFields, ExecFields
from warmboot.client.decode import item, items
from warmboot.client.problems import error_of
from warmboot.client.resource import Resource, flags, given
from warmboot.client.results import Container, LogChunk
from warmboot.client.streams import MULTIPLEXED, demultiplexed
from warmboot.client.transport import Transport
from warmboot.client.usage import ContainerStats, HealthReport
from warmboot.model.errors import NotFound, WarmbootError

if TYPE_CHECKING:
    from warmboot.client.sessions import Session


class Containers(Resource[Container]):
    """Containers, each in a VM of its own; ``ref`` is a name, an id, or the beginning of an id."""

    TYPE, WHAT = Container, "container"

    def __init__(self, link: Transport, token: str | None) -> None:
        super().__init__(link)
        self._token = token

    async def create(
        self,
        image: str,
        command: Sequence[str] | None = None,
        *,
        name: str | None = None,
        entrypoint: Sequence[str] | None = None,
        environment: Mapping[str, str | None] | None = None,
        ports: Sequence[Mapping[str, Any]] | None = None,
        publish_all: bool | None = None,
        shape: Mapping[str, int] | None = None,
        boot: str | None = None,
        runtime_image_id: str | None = None,
        archive: str | None = None,
        tty: bool | None = None,
        stdin_open: bool | None = None,
        auto_remove: bool | None = None,
        attach: bool | None = None,
        start: bool | None = None,
        labels: Mapping[str, str] | None = None,
        user: str | None = None,
        working_dir: str | None = None,
        hostname: str | None = None,
        stop_signal: str | None = None,
        stop_timeout_s: int | None = None,
        options: Mapping[str, Any] | None = None,
        folders: Sequence[Mapping[str, Any]] | None = None,
        owner_uid: int | None = None,
        park_at_shutdown: bool | None = None,
        park_after_idle_s: float | None = None,
    ) -> str:
        """Create a container, and start it unless ``start=False``; returns its id.

        What is not given is the API's default. ``ports``: ``[{"container_port": 80}]``, published
        at any free port unless they have a ``host_port``. ``shape``: ``{"vcpus": 2, "memory_mib":
        512}``. ``options``: Docker's, as in POST /v1/containers. ``folders``: of that machine, in
        which is what ``options`` bind, ``[{"path": "/srv/code", "read_only": True}]``, with the
        rights of its user ``owner_uid``. ``park_at_shutdown``: when the manager stops; it is woken
        when that starts. ``park_after_idle_s``: when nobody has used it for so many seconds.
        """
        body = given(
            image=image,
            command=command,
            name=name,
            entrypoint=entrypoint,
            environment=environment,
            ports=ports,
            publish_all=publish_all,
            shape=shape,
            boot=boot,
            runtime_image_id=runtime_image_id,
            archive=archive,
            tty=tty,
            stdin_open=stdin_open,
            auto_remove=auto_remove,
            attach=attach,
            start=start,
            labels=labels,
            user=user,
            working_dir=working_dir,
            hostname=hostname,
            stop_signal=stop_signal,
            stop_timeout_s=stop_timeout_s,
            options=options,
            folders=folders,
            owner_uid=owner_uid,
            park_at_shutdown=park_at_shutdown,
            park_after_idle_s=park_after_idle_s,
        )
        return str((await self._link.post("/v1/containers", body))["id"])

    async def run(
        self,
        image: str,
        command: Sequence[str] | None = None,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[ContainerFields],
    ) -> Finished:
        """Run a container to its end, and collect what it writes; nothing of it is left.

        ``fields`` as for ``create``. ``TimeoutError`` if it takes longer than ``timeout_s``.
        """
        container_id = await self.create(image, command, attach=True, **fields)
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    async with self.attach(container_id, logs=False) as session:
                        done = await collected(session)
                except WarmbootError:
                    await self._check_started(container_id)
                    raise
                await self._check_started(container_id)
                return done
        finally:
            with contextlib.suppress(NotFound):  # with ``auto_remove`` it goes by itself
                await self.delete(container_id, force=True)

    async def _check_started(self, container_id: str) -> None:
        """Raise why it could not be started, if that is how it was."""
        found = await self.wait(container_id, "running")
        if found.error is not None and found.started_at is None:
            raise error_of(found.error)

    async def run_command(
        self,
        ref: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        **options: Unpack[ExecFields],
    ) -> Finished:
        """Run a command in a running container to its end, and collect what it writes.

        ``options`` as for ``exec``. ``TimeoutError`` if it takes longer than ``timeout_s``; it is
        not ended then.
        """
        async with (
            asyncio.timeout(timeout_s),
            self.exec(ref, command, stdin=bool(stdin), **options) as session,
        ):
            return await collected(session, stdin)

    async def wait_for_port(
        self, ref: str, container_port: int, *, timeout_s: float = 60.0
    ) -> tuple[str, int]:
        """The address on the manager's machine, once a TCP connection to it is accepted there.

        ``Conflict`` if the container has ended, or does not publish the port; ``TimeoutError``. To
        be called on the manager's machine.
        """
        async with asyncio.timeout(timeout_s):
            container = await self.wait(ref, "running")
            while True:
                host, port = address_of(container, container_port)
                if await accepts(host, port):
                    return host, port
                container = await self.get(ref)

    async def list(
        self,
        *,
        all_states: bool = False,
        states: Sequence[str] = (),
        labels: Sequence[str] = (),
        name: str = "",
    ) -> builtins.list[Container]:
        """Those in ``states`` that have all ``labels`` and ``name`` in their name."""
        found = self.iterate(all_states=all_states, states=states, labels=labels, name=name)
        return [container async for container in found]

    def iterate(
        self,
        *,
        all_states: bool = False,
        states: Sequence[str] = (),
        labels: Sequence[str] = (),
        name: str = "",
    ) -> AsyncIterator[Container]:
        """As ``list``, newest first; the next part is asked for when it is needed."""
        wanted = {"state": states, "label": labels, "name": name}
        return self._all({**wanted, **flags(all=all_states)})

    async def wait(
        self, ref: str, until: str = "exited", timeout_s: float | None = None
    ) -> Container:
        """The container when it is so, has failed, or the time (``None``: no end) is over."""
        return await self._until(ref, until, lambda one: _holds(one, until), timeout_s)

    async def rename(self, ref: str, name: str) -> Container:
        """Give it another name; its host name stays as it is. ``NameTaken``."""
        return item(Container, await self._link.patch(self._path(ref), {"name": name}))

    async def stats(self, ref: str) -> ContainerStats:
        """What it uses, as its Docker counts it; this takes a second or two."""
        return item(ContainerStats, await self._link.get(self._path(ref, "stats")))

    async def health(self, ref: str) -> HealthReport:
        """What its health check has found, with its last runs."""
        return item(HealthReport, await self._link.get(self._path(ref, "health")))

    async def start(self, ref: str) -> None:
        """Start one that was only created, has exited or failed; returns when that has begun."""
        await self._link.post(self._path(ref, "start"))

    async def stop(
        self, ref: str, timeout_s: float | None = None, signal: str | None = None
    ) -> None:
        """``signal``, then SIGKILL; both and the time between, if not given, are its own."""
        params = given(timeout_s=timeout_s, signal=signal)
        await self._link.post_slow(self._path(ref, "stop"), params)

    async def kill(self, ref: str, signal: str = "SIGKILL") -> None:
        """Send its process a signal, by name."""
        await self._link.post(self._path(ref, "kill"), params={"signal": signal})

    async def pause(self, ref: str) -> None:
        """Have its VM stand still in memory."""
        await self._link.post(self._path(ref, "pause"))

    async def unpause(self, ref: str) -> None:
        """Have it go on where it was, with the time of now."""
        await self._link.post_slow(self._path(ref, "unpause"), {})

    async def park(self, ref: str) -> None:
        """Have its memory on the disk, and no VM, when this returns."""
        await self._link.post_slow(self._path(ref, "park"), {})

    async def wake(self, ref: str) -> None:
        """Have it go on where it was when it was parked, with the time of now."""
        await self._link.post_slow(self._path(ref, "wake"), {})

    async def fork(
        self, ref: str, count: int = 1, *, writable_folders: bool = False
    ) -> builtins.list[Container]:
        """So many that go on from it as it is now: all of them run, or none is left. They read
        folders of the host; with ``writable_folders`` they write to them as it does."""
        body = {"count": count, **({"writable_folders": True} if writable_folders else {})}
        made = await self._link.post_slow(self._path(ref, "fork"), {}, body)
        return items(Container, made)

    @asynccontextmanager
    async def forked(self, ref: str) -> AsyncIterator[Container]:
        """One that goes on from it as it is now, and is removed at the end."""
        (fork,) = await self.fork(ref)
        try:
            yield fork
        finally:
            with contextlib.suppress(NotFound):
                await self.delete(fork.id, force=True)

    async def restart(self, ref: str, timeout_s: float | None = None) -> None:
        """Stop it as ``stop`` does, and start it; returns when it runs or is being booted."""
        await self._link.post_slow(self._path(ref, "restart"), given(timeout_s=timeout_s))

    async def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[LogChunk]:
        """The container's output; ``since`` and ``until`` are times with a time zone."""
        times = {k: v.isoformat() for k, v in (("since", since), ("until", until)) if v}
        params = {**flags(follow=follow, timestamps=timestamps), **given(tail=tail), **times}
        accept = {"Accept": MULTIPLEXED}
        async with self._link.stream(self._path(ref, "logs"), params, accept) as response:
            async for chunk in demultiplexed(response.aiter_raw()):
                yield chunk

    async def boot_log(self, ref: str) -> str:
        """What its guest has said on its console since its VM was booted or restored."""
        async with self._link.stream(self._path(ref, "boot-log"), {}, {}) as response:
            return (await response.aread()).decode()

    def exec(
        self,
        ref: str,
        command: Sequence[str],
        *,
        tty: bool | None = None,
        stdin: bool | None = None,
        detach: bool | None = None,
        environment: Sequence[str] | None = None,
        user: str | None = None,
        working_dir: str | None = None,
        rows: int | None = None,
        columns: int | None = None,
    ) -> AbstractAsyncContextManager[Session]:
        """Run a command in a running container.

        ``stdin``: it is written to. ``detach``: it is only begun. ``environment``: ``NAME=value``,
        ``NAME`` alone takes it away. ``rows`` and ``columns`` are the size of its ``tty``.
        """
        from warmboot.client.sessions import open_session

        options = given(
            tty=tty,
            stdin=stdin,
            detach=detach,
            environment=environment,
            user=user,
            working_dir=working_dir,
            rows=rows,
            columns=columns,
        )
        start = {"command": list(command), **options}
        return open_session(self._link.endpoint, self._path(ref, "exec"), self._token, start)

    def attach(
        self, ref: str, *, logs: bool = True, start: bool = False
    ) -> AbstractAsyncContextManager[Session]:
        """The container's own process; with ``logs``, from its first output on.

        One that is being created is waited for. If it was created with ``attach``, it is started
        only when the session has begun. So is one that does not run, with ``start``.
        """
        from warmboot.client.sessions import open_session

        flags = [*(() if logs else ("logs=false",)), *(("start=true",) if start else ())]
        path = self._path(ref, "attach") + ("?" + "&".join(flags) if flags else "")
        return open_session(self._link.endpoint, path, self._token, None)


_BEGUN = ("running", "paused", "parking", "parked", "waking")


def _holds(container: Container, until: str) -> bool:
    ended, runs = container.state in ("exited", "failed", "deleting"), _BEGUN
    if until == "booted":
        return ended or container.state in runs or container.boot_method is not None
    if until == "healthy":
        return ended or container.health in ("healthy", "none")
    return ended or (until == "running" and container.state in runs)

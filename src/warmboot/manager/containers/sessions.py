"""Sessions with a process in a VM: an exec, or the container's own (attach); and its log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import datetime

import aiohttp
from aiodocker.exceptions import DockerError
from aiodocker.execs import Exec
from aiodocker.stream import Stream as DockerStream

from warmboot.host.guest import guest_containers
from warmboot.host.guest.guest_errors import lost, lost_or, plain_reason
from warmboot.host.guest.guest_link import GuestLink
from warmboot.manager.ports import ExecSpec, LogChunk, Session, Stream
from warmboot.model.errors import ContainerError, GuestError, GuestUnreachable

Resize = Callable[[int, int], Awaitable[None]]
ExitCode = Callable[[], Awaitable[int | None]]


class DockerSession:
    """A ``ports.Session`` over a hijacked connection to Docker in the guest.

    ``held`` is given back when it is closed.
    """

    def __init__(
        self,
        stream: DockerStream,
        resize: Resize,
        exit_code: ExitCode,
        held: contextlib.ExitStack,
    ) -> None:
        self._stream = stream
        self._resize = resize
        self._exit_code = exit_code
        self._held = held

    async def __aiter__(self) -> AsyncIterator[LogChunk]:
        try:
            while (message := await self._stream.read_out()) is not None:
                which = Stream.STDERR if message.stream == 2 else Stream.STDOUT
                yield LogChunk(which, message.data)
        except (aiohttp.ClientError, OSError) as error:
            raise GuestUnreachable(
                "the session was interrupted", details=plain_reason(error)
            ) from error

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.write_in(data)
        except (aiohttp.ClientError, OSError, RuntimeError, AssertionError) as error:
            # The library asserts on a connection whose other end is gone.
            raise GuestUnreachable("the session has ended", details=plain_reason(error)) from error

    async def write_eof(self) -> None:
        response = self._stream._resp
        transport = response.connection.transport if response and response.connection else None
        if transport is not None and transport.can_write_eof():
            transport.write_eof()

    async def resize(self, rows: int, columns: int) -> None:
        await self._resize(rows, columns)

    async def exit_code(self) -> int | None:
        return await self._exit_code()

    async def close(self) -> None:
        self._held.close()
        with contextlib.suppress(aiohttp.ClientError, OSError, AssertionError):
            await self._stream.close()


class DetachedSession:
    """A command that was only begun: nothing is seen of it, and nothing reaches it."""

    async def __aiter__(self) -> AsyncIterator[LogChunk]:
        nothing: tuple[LogChunk, ...] = ()
        for chunk in nothing:
            yield chunk

    async def write(self, data: bytes) -> None:
        """Nobody reads it."""

    async def write_eof(self) -> None:
        """Nobody reads it."""

    async def resize(self, rows: int, columns: int) -> None:
        """There is no terminal."""

    async def exit_code(self) -> int | None:
        return None

    async def close(self) -> None:
        """There is nothing to close."""


class EndedSession(DetachedSession):
    """What attaching to a container that has ended gives: what it had said, and its exit code."""

    def __init__(
        self,
        link: GuestLink,
        docker_id: str,
        tty: bool,
        while_open: AbstractContextManager[None],
        *,
        logs: bool,
    ) -> None:
        self._link = link
        self._docker_id = docker_id
        self._tty = tty
        self._logs = logs
        self._open = contextlib.ExitStack()
        self._open.enter_context(while_open)

    async def __aiter__(self) -> AsyncIterator[LogChunk]:
        if not self._logs:
            return
        chunks = guest_containers.logs(self._link, self._docker_id, tty=self._tty, options={})
        async with contextlib.aclosing(chunks):
            async for number, data in chunks:
                yield LogChunk(Stream.STDERR if number == 2 else Stream.STDOUT, data)

    async def exit_code(self) -> int | None:
        return (await guest_containers.inspect(self._link, self._docker_id)).exit_code

    async def close(self) -> None:
        self._open.close()


async def exec_session(link: GuestLink, docker_id: str, spec: ExecSpec) -> Session:
    """Run a command in a running container; ``TooManySessions``, unless ``spec.detach``."""
    with contextlib.ExitStack() as room:
        if not spec.detach:
            room.enter_context(link.sessions.taken())
        try:
            async with _starting(link):
                container = link.docker.containers.container(docker_id)
                execution = await container.exec(
                    list(spec.command),
                    stdin=spec.stdin and not spec.detach,
                    tty=spec.tty,
                    user=spec.user,
                    environment=list(spec.environment),
                    workdir=spec.working_dir or None,
                )
                if spec.detach:
                    await execution.start(detach=True)
                    return DetachedSession()
                stream = Exec(link.streams, execution.id, spec.tty).start()
                await stream._init()
        except DockerError as error:
            refusal = ContainerError("the command could not be run", details=error.message)
            raise lost_or(link, error, "running a command", refusal) from error
        except (aiohttp.ClientError, OSError) as error:
            raise lost(link, error, "running a command") from error
        held = room.pop_all()

    async def resize(rows: int, columns: int) -> None:
        # A process that has just ended cannot be resized, and need not be.
        with contextlib.suppress(DockerError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(guest_containers.ANSWER_TIMEOUT_S):
                await execution.resize(h=rows, w=columns)

    async def exit_code() -> int | None:
        try:
            async with asyncio.timeout(guest_containers.ANSWER_TIMEOUT_S):
                code = (await execution.inspect())["ExitCode"]
        except (DockerError, aiohttp.ClientError, OSError):
            return None
        return None if code is None else int(code)

    return DockerSession(stream, resize, exit_code, held)


async def attach_session(
    link: GuestLink,
    docker_id: str,
    *,
    tty: bool,
    stdin: bool,
    logs: bool,
    streaming: AbstractContextManager[None],
) -> Session:
    """Attach to the container's own process; with ``logs``, earlier output is given first.

    ``TooManySessions``.
    """
    container = link.streams.containers.container(docker_id)
    with contextlib.ExitStack() as room:
        room.enter_context(link.sessions.taken())
        try:
            stream = container.attach(stdout=True, stderr=True, stdin=stdin, logs=logs)
            async with _starting(link):
                await stream._init()
        except DockerError as error:
            if not (await guest_containers.inspect(link, docker_id)).running:
                return EndedSession(link, docker_id, tty, streaming, logs=logs)
            raise ContainerError(
                "the container cannot be attached", details=error.message
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise lost(link, error, "attaching to it") from error
        room.enter_context(streaming)
        held = room.pop_all()

    async def resize(rows: int, columns: int) -> None:
        with contextlib.suppress(ContainerError, GuestError):
            await guest_containers.resize(link, docker_id, rows, columns)

    async def exit_code() -> int | None:
        state = await guest_containers.inspect(link, docker_id)
        return None if state.running else state.exit_code

    return DockerSession(stream, resize, exit_code, held)


@contextlib.asynccontextmanager
async def _starting(link: GuestLink) -> AsyncIterator[None]:
    """A session's turn to be begun. The time that Docker may take counts from there."""
    async with (
        asyncio.timeout(guest_containers.START_TIMEOUT_S),
        link.starting,
        asyncio.timeout(guest_containers.ANSWER_TIMEOUT_S),
    ):
        yield


def log_times(since: datetime | None, until: datetime | None) -> dict[str, int | str]:
    """As Docker takes them: seconds since 1970, before which nobody has logged anything."""
    times: dict[str, int | str] = {}
    if since is not None:
        times["since"] = f"{max(0.0, since.timestamp()):.6f}"
    if until is not None:
        # Docker's are finer than ours: to the end of that microsecond.
        times["until"] = f"{max(0.0, until.timestamp()):.6f}999"
    return times

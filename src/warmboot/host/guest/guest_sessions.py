"""Sessions with a container in a VM, and its log, up to the number that there is room for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from warmboot.docker.errors import translated
from warmboot.docker.facts import ContainerFacts
from warmboot.docker.sessions import AttachedSession, QuietSession
from warmboot.docker.unexecuted import ExecutedSession, in_words, of_container, of_exec
from warmboot.host.guest.guest_link import GuestLink
from warmboot.model.errors import Conflict, ContainerError, NotFound
from warmboot.model.sessions import ExecSpec, LogChunk

REFUSED_WITHIN_S = 0.5
"""How long after a command's start it may be told that the kernel does not execute it."""

TURN_TIMEOUT_S = 300.0
"""How long a session may wait until it is begun, and take for that."""


async def output(
    link: GuestLink, docker_id: str, *, follow: bool = False, **options: Any
) -> AsyncGenerator[LogChunk, None]:
    """``DockerClient.output``, if there is room: ``TooManySessions``."""
    chunks = link.docker.output(docker_id, follow=follow, **options)
    with (link.sessions if follow else link.readers).taken():
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                yield in_words(chunk)


async def exec_session(link: GuestLink, docker_id: str, spec: ExecSpec) -> ExecutedSession:
    """Run a command in a running container; ``TooManySessions``, unless ``spec.detach``."""
    with contextlib.ExitStack() as room:
        if not spec.detach:
            room.enter_context(link.sessions.taken())
        async with _turn(link, "running a command"):
            session = await link.docker.exec(docker_id, spec)
        told = ExecutedSession(session, of_exec(spec.command[0]))
        if spec.detach:
            with translated(link.docker.place, "running a command"):
                async with asyncio.timeout(TURN_TIMEOUT_S):
                    await _leave_when_begun(told, session)
            return replace(told, session=QuietSession())
        session.held = room.pop_all()
        return told


async def _leave_when_begun(told: ExecutedSession, session: AttachedSession) -> None:
    """Leave a command that goes on by itself; raise why it was not executed.

    Docker's own way to begin one does not say what the kernel refuses, its output does.
    """
    try:
        await session.begun()
        with contextlib.suppress(TimeoutError):  # that it was executed, nothing says
            async with asyncio.timeout(REFUSED_WITHIN_S):
                async for _ in told:
                    return
    finally:
        await told.close()


async def attach_session(
    link: GuestLink,
    docker_id: str,
    *,
    tty: bool,
    stdin: bool,
    logs: bool,
    streaming: AbstractContextManager[None],
    to_start: bool = False,
) -> ExecutedSession:
    """Attach to the container's own process; with ``logs``, earlier output is given first.

    ``to_start``: it is started when we are attached, also if it has ended.
    ``TooManySessions``.
    """
    with contextlib.ExitStack() as room:
        room.enter_context(link.sessions.taken())
        attached = await _attach(link, docker_id, stdin=stdin, logs=logs, to_start=to_start)
        if not isinstance(attached, AttachedSession):
            # There is what it had said, and its exit code.
            said = link.docker.output(docker_id, tty=tty) if logs else None
            ended = QuietSession(said, attached.exit_code, room.pop_all())
            ended.held.enter_context(streaming)
            return ExecutedSession(ended, of_container)
        room.enter_context(streaming)
        attached.held = room.pop_all()
        return ExecutedSession(attached, of_container)


async def _attach(
    link: GuestLink, docker_id: str, *, stdin: bool, logs: bool, to_start: bool
) -> AttachedSession | ContainerFacts:
    """The session; or how the container is, if it has ended.

    Docker attaches to one that has ended, too, and then says nothing until it is started again.
    """
    async with contextlib.AsyncExitStack() as undone:
        session: AttachedSession | None = None
        try:
            async with _turn(link, "attaching to the container"):
                session = await link.docker.attach(docker_id, stdin=stdin, logs=logs)
            undone.push_async_callback(session.close)
        except (Conflict, ContainerError, NotFound):
            if not (now := await link.docker.inspect(docker_id)).ended:
                raise
            return now
        if not to_start and (now := await link.docker.inspect(docker_id)).ended:
            return now
        undone.pop_all()
        return session


@contextlib.asynccontextmanager
async def _turn(link: GuestLink, doing: str) -> AsyncIterator[None]:
    """A session's turn to be begun. The time that Docker may take counts from there."""
    with translated(link.docker.place, doing):
        async with asyncio.timeout(TURN_TIMEOUT_S), link.starting:
            yield

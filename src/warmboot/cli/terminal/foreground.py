"""Runs a container in the foreground until it ends: output, input and signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import typer

from warmboot.cli.drive import failure_of
from warmboot.cli.entry import Unwritten
from warmboot.cli.terminal.attach import carry
from warmboot.cli.terminal.signals import Signals
from warmboot.model.errors import CommandNotExecutable, CommandNotFound, WarmbootError

if TYPE_CHECKING:
    from warmboot.client import Client, Session
    from warmboot.client.results import Container

OUR_FAILURE = 125


class Stay:
    """Follows one container in the foreground until it ends.

    A signal is the container's: it stops with that one as its stop signal, so what ignores it is
    killed when its time is over. The manager sees to that, also when we are gone.
    """

    def __init__(self, client: Client, container: Container, signals: Signals) -> None:
        self._client, self._container, self._signals = client, container, signals
        self._stopping: asyncio.Task[None] | None = None
        self._asked = False

    async def run(self, session: Session, *, stdin: bool, tty: bool) -> int:
        """Carry a session that was attached before the container's start; its exit code."""
        async with self._signals_passed_on():
            return await self._until_end(carry(session, tty=tty, stdin=stdin))

    async def start(
        self, attaching: AbstractAsyncContextManager[Session], *, stdin: bool, tty: bool
    ) -> int:
        """Start the container by attaching to it; its exit code. It may have to be booted first,
        and a signal that comes before it runs stops it as soon as it does.
        """
        async with self._signals_passed_on(), attaching as session:
            return await self._until_end(carry(session, tty=tty, stdin=stdin))

    async def attach(self, *, stdin: bool, tty: bool) -> int:
        """Attach to the container, and show its output from now on; its exit code."""
        async with self._signals_passed_on():
            return await self._until_end(self._attached(tty=tty, stdin=stdin))

    def left(self) -> None:
        """Tell that we leave before its end, and what becomes of it."""
        name = self._container.name
        becomes = "is being stopped" if self._asked else f"goes on; stop it: warmboot stop {name}"
        note(f"leaving {name}, which {becomes}")

    @contextlib.asynccontextmanager
    async def _signals_passed_on(self) -> AsyncIterator[None]:
        """The first signal within it is the container's, and the next one cancels."""
        try:
            with self._signals.first_to(self._stop):
                yield
            if self._stopping is not None:
                await asyncio.wait({self._stopping})
        finally:
            if self._stopping is not None:
                self._stopping.cancel()
                await asyncio.gather(self._stopping, return_exceptions=True)

    async def _until_end(self, work: Coroutine[Any, Any, int | None]) -> int:
        ended = asyncio.create_task(self._client.containers.wait(self._container.id))
        try:
            try:
                code = await work
            except (Unwritten, CommandNotExecutable, CommandNotFound):
                raise  # whether or not it is being removed by now
            except WarmbootError:
                if (code := await killed(self._client, self._container.id)) is None:
                    raise
            last = None if code is not None else await ended
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
        if last is None:
            assert code is not None
            return code
        if last.state == "failed":
            raise failure_of(last)
        return OUR_FAILURE if last.exit_code is None else last.exit_code

    def _stop(self, number: signal.Signals) -> None:
        async def stop() -> None:
            try:
                # It may be about to be started.
                await self._client.containers.wait(self._container.id, "running")
                self._asked = True
                await self._client.containers.stop(self._container.id, signal=number.name)
            except WarmbootError as error:
                note(f"{number.name} could not be passed on: {error.brief}")

        self._stopping = asyncio.create_task(stop())

    async def _attached(self, *, tty: bool, stdin: bool) -> int | None:
        async with self._client.containers.attach(self._container.id, logs=False) as session:
            return await carry(session, tty=tty, stdin=stdin)


async def killed(client: Client, ref: str) -> int | None:
    """The exit code, if a session was cut off because its container was removed."""
    with contextlib.suppress(WarmbootError):
        now = await client.containers.wait(ref, timeout_s=0)
        return now.exit_code if now.state == "deleting" else None
    return None


def note(text: str) -> None:
    """A line for people, on stderr."""
    dim = sys.stderr.isatty()
    print(typer.style(text, dim=True) if dim else text, file=sys.stderr, flush=True)

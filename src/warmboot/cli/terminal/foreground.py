"""Runs a container in the foreground until it ends: output, input and signals."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import typer

from warmboot.cli.drive import failure_of
from warmboot.cli.terminal.attach import carry
from warmboot.cli.terminal.signals import Signals
from warmboot.cli.terminal.terminal import write_output
from warmboot.model.errors import Conflict, WarmbootError

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.results import Container

OUR_FAILURE = 125


class Stay:
    """One stay with one container.

    A signal is the container's: it stops with that one as its stop signal, so what ignores it is
    killed when its time is over. The manager sees to that, also when we are gone.
    """

    def __init__(self, client: Client, container: Container, signals: Signals) -> None:
        self._client, self._container, self._signals = client, container, signals
        self._stopping: asyncio.Task[None] | None = None

    async def run(self, *, stdin: bool, tty: bool) -> int:
        """From its first output on; with ``stdin`` attached. The exit code."""
        work = self._attached(tty=tty, stdin=True, logs=True) if stdin else self._shown()
        return await self._until_end(work)

    async def attach(self, *, stdin: bool, tty: bool) -> int:
        """From now on."""
        return await self._until_end(self._attached(tty=tty, stdin=stdin, logs=False))

    async def _until_end(self, work: Coroutine[Any, Any, int | None]) -> int:
        ended = asyncio.create_task(self._client.containers.wait(self._container.id))
        try:
            with self._signals.first_to(self._stop):
                code = await work
                last = None if code is not None else await ended
            if self._stopping is not None:
                await asyncio.wait({self._stopping})
        finally:
            tasks = {task for task in (ended, self._stopping) if task is not None}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if last is None:
            assert code is not None
            return code
        if last.state == "failed":
            raise failure_of(last)
        return OUR_FAILURE if last.exit_code is None else last.exit_code

    def _stop(self, number: signal.Signals) -> None:
        async def stop() -> None:
            try:
                await self._client.containers.stop(self._container.id, signal=number.name)
            except WarmbootError as error:
                note(f"{number.name} could not be passed on: {error.brief}")

        self._stopping = asyncio.create_task(stop())

    async def _attached(self, *, tty: bool, stdin: bool, logs: bool) -> int | None:
        try:
            async with self._client.containers.attach(self._container.id, logs=logs) as session:
                return await carry(session, tty=tty, stdin=stdin)
        except Conflict:
            # It ended before we came: what it wrote is in its log.
            await self._shown()
            return None

    async def _shown(self) -> None:
        async for chunk in self._client.containers.logs(self._container.id, follow=True):
            write_output(chunk.stream, chunk.data)


def note(text: str) -> None:
    """A line for people, on stderr."""
    dim = sys.stderr.isatty()
    print(typer.style(text, dim=True) if dim else text, file=sys.stderr, flush=True)

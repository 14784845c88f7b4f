"""Carrying a session between the user's terminal (or pipes) and a process in a container."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from warmboot.cli.terminal.raw_output import pass_on
from warmboot.cli.terminal.terminal import (
    keys,
    on_resize,
    raw_terminal,
    terminal_size,
    without_detach_keys,
)
from warmboot.model.errors import Unavailable

if TYPE_CHECKING:
    from warmboot.client import Session

STDIN = 0


async def carry(session: Session, *, tty: bool, stdin: bool) -> int | None:
    """Carry input and output until the process ends; returns its exit code. ``Detached``."""
    with contextlib.ExitStack() as restored:
        if tty and sys.stdin.isatty():
            if stdin:
                restored.enter_context(raw_terminal(STDIN))
            await session.resize(*terminal_size(STDIN))
            restored.enter_context(on_resize(session.resize, STDIN))
        output = asyncio.create_task(pass_on(_pieces(session)))
        tasks = {output}
        if stdin:
            tasks.add(asyncio.create_task(_feed(session, detachable=tty)))
        try:
            while not output.done():
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if output not in done:
                    for task in done:
                        task.result()
            output.result()
        finally:
            for task in (*tasks, output):
                task.cancel()
            await asyncio.gather(*tasks, output, return_exceptions=True)
    return session.exit_code


async def _pieces(session: Session) -> AsyncIterator[tuple[str, bytes]]:
    async for chunk in session:
        yield chunk.stream, chunk.data


async def _feed(session: Session, *, detachable: bool) -> None:
    received: AsyncIterator[bytes] = keys(STDIN)
    with contextlib.suppress(Unavailable):  # why it takes no more is told by its output's end
        async for data in without_detach_keys(received) if detachable else received:
            await session.write(data)
        await session.write_eof()


@contextlib.contextmanager
def hangup_ends_us() -> Iterator[None]:
    """A SIGTERM or SIGHUP cancels what runs, so that the terminal is restored on the way out."""
    loop = asyncio.get_running_loop()
    current = asyncio.current_task()
    assert current is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, current.cancel)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)


def has_terminal() -> bool:
    return os.isatty(STDIN)

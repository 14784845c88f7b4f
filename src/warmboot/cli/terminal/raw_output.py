"""Bytes to our standard output and standard error, as they are.

A thread writes: whoever reads our output may take as long as they like, and signals and the
connection to the manager are looked after meanwhile. The thread dies with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import select
import sys
import threading
from collections.abc import AsyncIterable, Iterable, Iterator
from operator import itemgetter
from typing import NoReturn

from warmboot.cli.entry import unwritten
from warmboot.model.errors import WarmbootError

MOST_BYTES = 1 << 20
"""What may wait to be written; then what is read from the manager waits, too."""


async def pass_on(pieces: AsyncIterable[tuple[str, bytes]]) -> None:
    """Write each piece to its stream, ``stdout`` or ``stderr``, and return when all is written.

    Raises ``Unwritten`` or ``BrokenPipeError`` as soon as one cannot be written, even if no other
    comes for hours; and what ``pieces`` raises, when those before it are written.
    """
    output = RawOutput()

    async def copy() -> None:
        try:
            async for stream, data in pieces:
                await output.write(stream, data)
        except WarmbootError:
            await output.finish()
            raise
        await output.finish()

    copying = asyncio.create_task(copy())
    failing = asyncio.create_task(output.failed())
    try:
        await asyncio.wait({copying, failing}, return_when=asyncio.FIRST_COMPLETED)
        await (failing if failing.done() else copying)
    finally:
        for task in (copying, failing):
            task.cancel()
        await asyncio.gather(copying, failing, return_exceptions=True)


class RawOutput:
    """``write`` pieces in order, and ``finish``; both raise why a piece could not be written."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._unwritten_bytes = 0
        self._written = asyncio.Event()
        self._failure: OSError | None = None
        self._has_failed = asyncio.Event()

    async def write(self, stream: str, data: bytes) -> None:
        """``stream`` is ``stdout`` or ``stderr``. Returns when there is room for more."""
        if self._thread is None:
            sys.stdout.flush()
            sys.stderr.flush()
            self._thread = threading.Thread(target=self._write_all, name="output", daemon=True)
            self._thread.start()
        self._unwritten_bytes += len(data)
        target = sys.stderr if stream == "stderr" else sys.stdout
        self._pieces.put((target.fileno(), data))
        await self._until(MOST_BYTES)

    async def finish(self) -> None:
        """Return when all is written."""
        await self._until(0)

    async def _until(self, most_bytes: int) -> None:
        while self._failure is None and self._unwritten_bytes > most_bytes:
            self._written.clear()
            await self._written.wait()
        if self._failure is not None:
            await self.failed()

    async def failed(self) -> NoReturn:
        """Wait until something cannot be written, and raise why."""
        await self._has_failed.wait()
        assert self._failure is not None
        if isinstance(self._failure, BrokenPipeError):
            raise self._failure
        raise unwritten(self._failure) from self._failure

    def _write_all(self) -> None:
        failure: OSError | None = None
        while failure is None:
            pieces = self._waiting()
            try:
                for target, data in joined(pieces):
                    write_all(target, data)
            except OSError as error:
                failure = error
            size_bytes = sum(len(data) for _, data in pieces)
            with contextlib.suppress(RuntimeError):  # the loop is closed: we are leaving
                self._loop.call_soon_threadsafe(self._note, size_bytes, failure)

    def _waiting(self) -> list[tuple[int, bytes]]:
        """All that is there, as soon as there is something."""
        pieces = [self._pieces.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                pieces.append(self._pieces.get_nowait())
        return pieces

    def _note(self, size_bytes: int, failure: OSError | None) -> None:
        self._unwritten_bytes -= size_bytes
        self._failure = failure
        if failure is not None:
            self._has_failed.set()
        self._written.set()


def joined(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Neighbours that go to the same file are one piece."""
    for target, group in itertools.groupby(pieces, key=itemgetter(0)):
        yield target, b"".join(data for _, data in group)


def write_all(target: int, data: bytes) -> None:
    """Write all of ``data``, even if another process has set the file to non-blocking."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(target, left) :]
        except BlockingIOError:
            select.select([], [target], [])

"""The user's terminal: raw during a session, and restored on every exit.

┌─ keyboard ─▶ keys() ─▶ session        detach keys: ctrl-p ctrl-q
└─ SIGWINCH ─▶ on_resize
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import termios
import threading
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

DETACH_FIRST, DETACH_SECOND = 0x10, 0x11
_READ_BYTES = 65_536


class Detached(Exception):
    """The user pressed the detach keys."""


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Raw mode; the former settings come back on every path that Python sees."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def terminal_size(fd: int) -> tuple[int, int]:
    """The terminal's rows and columns."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return 24, 80
    return max(1, size.lines), max(1, size.columns)


@contextlib.contextmanager
def on_resize(callback: Callable[[int, int], Awaitable[None]], fd: int) -> Iterator[None]:
    """Call back with rows and columns whenever the terminal changes its size."""
    loop = asyncio.get_running_loop()
    running: set[asyncio.Future[None]] = set()

    def changed() -> None:
        task = asyncio.ensure_future(callback(*terminal_size(fd)))
        running.add(task)
        task.add_done_callback(_forget)

    def _forget(task: asyncio.Future[None]) -> None:
        running.discard(task)
        if not task.cancelled():
            task.exception()  # a session that just ended takes no size; its end is told elsewhere

    loop.add_signal_handler(signal.SIGWINCH, changed)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        for task in running:
            task.cancel()


async def keys(fd: int) -> AsyncIterator[bytes]:
    """What comes in on ``fd`` until it ends. A thread reads: files and pipes can be read so too.

    The thread dies with the process; what it may still be waiting for is nobody's then.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    taken = threading.Semaphore(16)  # the reader stops when the session does not keep up

    def read() -> None:
        data = b"?"
        while data:
            taken.acquire()
            try:
                data = _read(fd)
            except OSError:
                data = b""
            with contextlib.suppress(RuntimeError):  # the loop is closed: we are leaving
                loop.call_soon_threadsafe(arrived.put_nowait, data)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while data := await arrived.get():
        yield data
        taken.release()


def _read(fd: int) -> bytes:
    """Also where somebody else has set the file to non-blocking."""
    while True:
        try:
            return os.read(fd, _READ_BYTES)
        except BlockingIOError:
            select.select([fd], [], [])


async def without_detach_keys(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass keys on; raise ``Detached`` at ctrl-p ctrl-q. A lone ctrl-p is held for one key."""
    held = False
    async for chunk in chunks:
        passed = bytearray()
        for byte in chunk:
            if held and byte == DETACH_SECOND:
                if passed:
                    yield bytes(passed)
                raise Detached
            if held:
                passed.append(DETACH_FIRST)
            held = byte == DETACH_FIRST
            if not held:
                passed.append(byte)
        if passed:
            yield bytes(passed)

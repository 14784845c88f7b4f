"""Handles SIGINT, SIGTERM and SIGHUP while a container is started and runs in the foreground.

    brought up ──▶ it runs, we stay ──▶ removed, or left
    cancelled      passed on,           cancelled
                   the next cancels

Cancelled means our own work: what it has begun is undone on the way out.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SAME_S = 1.0
"""What comes so soon after a signal is the same wish: ``timeout`` sends its signal twice."""


class Signals:
    """Use as a context manager within the task that does the work."""

    def __init__(self) -> None:
        self._last: signal.Signals | None = None
        self._last_at = -SAME_S
        self._first: Callable[[signal.Signals], None] | None = None
        self._caught: list[signal.Signals] = []

    def __enter__(self) -> Signals:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        for number in CAUGHT:
            # What is ignored stays so: nohup, and a script's background jobs, mean it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, self._came, number)
                self._caught.append(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._caught:
            asyncio.get_running_loop().remove_signal_handler(number)

    def _came(self, number: signal.Signals) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._last_at < SAME_S:
            return
        self._last, self._last_at = number, now
        first, self._first = self._first, None
        if first is None:
            self._task.cancel()
        else:
            first(number)

    @contextlib.contextmanager
    def first_to(self, receive: Callable[[signal.Signals], None]) -> Iterator[None]:
        """Pass the first signal that comes within this context to ``receive``."""
        self._first = receive
        try:
            yield
        finally:
            self._first = None

    def settle(self) -> int | None:
        """The exit code, if a signal has caused the ``CancelledError`` that is being handled.

        What follows can await again; the next signal cancels that, too.
        """
        if self._last is None:
            return None
        self._task.uncancel()
        return 128 + self._last

"""What the bench does at the moment: group, round of how many, time since the group began.

On a terminal it is one line that stays up to date; elsewhere each step is a line of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

from rich.console import Console
from rich.status import Status
from rich.text import Text


class Progress:
    """Told by a group which step it has come to."""

    def __init__(
        self, console: Console, group: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._group = group
        self._clock = clock
        self._began = clock()
        self._step = "begins"
        self._status: Status | None = None
        self.kept: dict[str, float] = {}
        """Figures that are known however the group ends."""

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._began

    def keep(self, figures: Mapping[str, float]) -> None:
        """They are measured, and stay so if what comes after them fails."""
        self.kept |= figures

    def tell(self, step: str) -> None:
        self._step = step
        if self._status is None:
            self._console.print(self.__rich__())

    def rounds(self, what: str, total: int) -> Iterator[int]:
        """0, 1, 2, … and each is told before it begins."""
        for number in range(total):
            self.tell(f"{what}: round {number + 1} of {total}")
            yield number

    @contextlib.contextmanager
    def shown(self) -> Iterator[Progress]:
        if not self._console.is_terminal:
            self.tell(self._step)
            yield self
            return
        with self._console.status(self) as self._status:
            yield self

    def __rich__(self) -> Text:
        return Text(f"[{self._group} {spelled(self.elapsed_s)}] {self._step}")


def spelled(seconds: float) -> str:
    """``0:01:05``"""
    return str(timedelta(seconds=int(seconds)))

"""The stages of a boot, timed from the moment of the request."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from warmboot.model.container import StageTiming


class Stopwatch:
    """Seconds since it was made, and the stages seen so far."""

    def __init__(self, earlier: tuple[StageTiming, ...] = ()) -> None:
        self._began = time.monotonic()
        self._stages = list(earlier)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def stages(self) -> tuple[StageTiming, ...]:
        return tuple(self._stages)

    @property
    def last_stage(self) -> str | None:
        """The one that ended last; after an error, the one it came from."""
        return self._stages[-1].name if self._stages else None

    @property
    def told(self) -> list[dict[str, Any]]:
        """The stages as events tell them."""
        return [{"name": stage.name, "seconds": stage.duration_s} for stage in self._stages]

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; one that fails is kept too, since it took its time."""
        started = self.elapsed_s
        try:
            yield
        finally:
            took = self.elapsed_s - started
            self._stages.append(StageTiming(name, round(started, 4), round(took, 4)))

"""Measures the stages of a boot from the moment of the request."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from warmboot.model.tenants.boot import StageStep, StageTiming


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
    def event_data(self) -> list[dict[str, Any]]:
        """The stages as events tell them."""
        return [{"name": stage.name, "seconds": stage.duration_s} for stage in self._stages]

    @property
    def line(self) -> str:
        """The stages as the log tells them: ``restore 0.31s, identity 0.02s (clock 0.1ms)``."""
        return ", ".join(f"{s.name} {s.duration_s:.2f}s{_steps(s)}" for s in self._stages)

    @contextlib.contextmanager
    def stage(self, name: str, before_s: float = 0.0) -> Iterator[list[StageStep]]:
        """Time a stage; one that fails is kept too, since it took its time.

        What the body appends are steps of it that somebody else has timed. The last ``before_s``
        of the stage before were this one's already.
        """
        started = self.elapsed_s
        if before_s:
            last = self._stages[-1]
            shorter_s = round(max(0.0, last.duration_s - before_s), 4)
            self._stages[-1] = replace(last, duration_s=shorter_s)
            started = last.started_s + shorter_s
        steps: list[StageStep] = []
        try:
            yield steps
        finally:
            took = max(0.0, self.elapsed_s - started)  # ``started`` may have been rounded up
            rounded = tuple(StageStep(step.name, round(step.duration_s, 6)) for step in steps)
            self._stages.append(StageTiming(name, round(started, 4), round(took, 4), rounded))


def _steps(stage: StageTiming) -> str:
    told = ", ".join(f"{step.name} {step.duration_s * 1000:.1f}ms" for step in stage.steps)
    return f" ({told})" if told else ""

"""For how long something has been idle: pure, without a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass

BUSY_CPU_SHARE = 0.01
"""Of one CPU."""

SHORTEST_LOOK_S = 0.25
LOOKS = 4
"""How often it is looked at in the time after which it counts as idle."""


def look_every_s(idle_s: float, longest_s: float) -> float:
    """How often to look at what counts as idle after ``idle_s``."""
    return min(max(idle_s / LOOKS, SHORTEST_LOOK_S), longest_s)


@dataclass(frozen=True, slots=True)
class ActivitySample:
    """What was seen at the moment ``at_s``: CPU used so far, and when it was heard of, if ever."""

    at_s: float
    cpu_s: float
    heard_s: float = float("-inf")


class IdleClock:
    """Call ``see`` regularly; ``idle_s`` is for how long nothing has happened."""

    def __init__(self, start: ActivitySample, busy_cpu_share: float = BUSY_CPU_SHARE) -> None:
        self._busy_cpu_share = busy_cpu_share
        self._last = start
        self._active_s = start.at_s

    @property
    def idle_s(self) -> float:
        return self._last.at_s - self._active_s

    def see(self, sample: ActivitySample) -> float:
        """Take a look into account; ``idle_s`` after it.

        CPU time that became less than before (a process ended unseen) counts as activity.
        """
        elapsed_s = sample.at_s - self._last.at_s
        used_s = sample.cpu_s - self._last.cpu_s
        if elapsed_s > 0 and not 0 <= used_s < self._busy_cpu_share * elapsed_s:
            self._active_s = sample.at_s
        self._active_s = max(self._active_s, min(sample.heard_s, sample.at_s))
        self._last = sample
        return self.idle_s

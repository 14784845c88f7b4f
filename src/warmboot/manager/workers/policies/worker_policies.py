"""Decides when a worker is paused or checkpointed automatically: pure functions without a clock.

Idle means both, for as long as the policy says:

- it has reported nothing (``POST …/events``), and
- all its processes together used less than 1 % of one CPU.

A worker that waits for a network answer or a timer is idle by this; one that must not be paused
then reports something now and then. The time begins anew at every start and every resume.
"""

from __future__ import annotations

from dataclasses import dataclass

from warmboot.model.worker import WorkerPolicy

BUSY_CPU_SHARE = 0.01
"""Of one CPU."""

SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.25, 15.0
LOOKS = 4
"""How often a worker is looked at in the time after which it counts as idle."""


@dataclass(frozen=True, slots=True)
class ActivitySample:
    """What was seen of a worker at the moment ``at_s``: CPU used so far, last report, if any."""

    at_s: float
    cpu_s: float
    heard_s: float = float("-inf")


class IdleClock:
    """Call ``see`` regularly; ``idle_s`` is for how long nothing has happened."""

    def __init__(self, start: ActivitySample) -> None:
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
        if elapsed_s > 0 and not 0 <= used_s < BUSY_CPU_SHARE * elapsed_s:
            self._active_s = sample.at_s
        self._active_s = max(self._active_s, min(sample.heard_s, sample.at_s))
        self._last = sample
        return self.idle_s


def check_every_s(policy: WorkerPolicy) -> float | None:
    """How often to look for idleness; ``None`` when nobody asks for it."""
    if policy.pause_after_idle_s is None:
        return None
    return min(max(policy.pause_after_idle_s / LOOKS, SHORTEST_LOOK_S), LONGEST_LOOK_S)


def next_checkpoint_s(policy: WorkerPolicy, last_s: float, now_s: float) -> float | None:
    """The moment of the next checkpoint, ``last_s`` being that of the last one (or the start).

    Never in the past: after a long pause one is due at once, not one for each that was missed.
    """
    if policy.checkpoint_every_s is None:
        return None
    return max(last_s + policy.checkpoint_every_s, now_s)

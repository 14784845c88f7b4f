"""Decides when a worker is paused or checkpointed automatically: pure functions without a clock.

Idle means both, for as long as the policy says:

- it has reported nothing (``POST …/events``), and
- all its processes together used less than 1 % of one CPU.

A worker that waits for a network answer or a timer is idle by this; one that must not be paused
then reports something now and then. The time begins anew at every start and every resume.
"""

from __future__ import annotations

from warmboot.manager.core.idle_clock import look_every_s
from warmboot.model.worker import WorkerPolicy

LONGEST_LOOK_S = 15.0


def check_every_s(policy: WorkerPolicy) -> float | None:
    """How often to look for idleness; ``None`` when nobody asks for it."""
    if policy.pause_after_idle_s is None:
        return None
    return look_every_s(policy.pause_after_idle_s, LONGEST_LOOK_S)


def next_checkpoint_s(policy: WorkerPolicy, last_s: float, now_s: float) -> float | None:
    """The moment of the next checkpoint, ``last_s`` being that of the last one (or the start).

    Never in the past: after a long pause one is due at once, not one for each that was missed.
    """
    if policy.checkpoint_every_s is None:
        return None
    return max(last_s + policy.checkpoint_every_s, now_s)

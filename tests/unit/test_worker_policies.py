"""When a worker counts as idle, and when its next checkpoint is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.manager.core.idle_clock import BUSY_CPU_SHARE, ActivitySample, IdleClock
from warmboot.manager.workers.policies.worker_policies import (
    LONGEST_LOOK_S,
    check_every_s,
    next_checkpoint_s,
)
from warmboot.model.worker import WorkerPolicy


def test_a_worker_that_does_nothing_is_idle_since_it_started() -> None:
    clock = IdleClock(ActivitySample(100, 3))
    assert clock.see(ActivitySample(110, 3)) == 10
    assert clock.see(ActivitySample(130, 3.01)) == 30


def test_cpu_use_begins_the_time_anew() -> None:
    clock = IdleClock(ActivitySample(0, 0))
    clock.see(ActivitySample(10, 0))
    assert clock.see(ActivitySample(20, 10 * BUSY_CPU_SHARE + 0.001)) == 0
    assert clock.see(ActivitySample(30, 10 * BUSY_CPU_SHARE + 0.002)) == 10


def test_a_report_begins_the_time_anew() -> None:
    clock = IdleClock(ActivitySample(0, 0))
    assert clock.see(ActivitySample(10, 0, heard_s=7)) == 3
    assert clock.see(ActivitySample(20, 0, heard_s=7)) == 13


def test_a_report_from_before_the_start_does_not_count() -> None:
    assert IdleClock(ActivitySample(100, 0)).see(ActivitySample(110, 0, heard_s=50)) == 10


def test_a_report_from_the_future_is_one_from_now() -> None:
    assert IdleClock(ActivitySample(0, 0)).see(ActivitySample(10, 0, heard_s=99)) == 0


def test_cpu_time_that_went_back_is_activity() -> None:
    clock = IdleClock(ActivitySample(0, 5))
    assert clock.see(ActivitySample(10, 1)) == 0


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 100)), max_size=20))
def test_idle_time_is_never_longer_than_the_life(steps: list[tuple[float, float]]) -> None:
    now, cpu = 0.0, 0.0
    clock = IdleClock(ActivitySample(now, cpu))
    for wait, used in steps:
        now, cpu = now + wait, cpu + used
        assert 0 <= clock.see(ActivitySample(now, cpu)) <= now


def test_nobody_looks_without_a_policy() -> None:
    assert check_every_s(WorkerPolicy()) is None
    assert next_checkpoint_s(WorkerPolicy(), 0, 10) is None


@pytest.mark.parametrize(("idle_s", "every_s"), [(1, 0.25), (20, 5), (3600, LONGEST_LOOK_S)])
def test_looks_are_as_frequent_as_the_policy_needs(idle_s: float, every_s: float) -> None:
    assert check_every_s(WorkerPolicy(pause_after_idle_s=idle_s)) == every_s


def test_a_checkpoint_is_due_after_its_period_and_once_if_many_were_missed() -> None:
    policy = WorkerPolicy(checkpoint_every_s=60)
    assert next_checkpoint_s(policy, last_s=100, now_s=110) == 160
    assert next_checkpoint_s(policy, last_s=100, now_s=1000) == 1000

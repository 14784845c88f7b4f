"""The stages of a boot: one after the other, and what belongs to which."""

from __future__ import annotations

import pytest

from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.model.tenants.boot import StageStep


def test_a_stage_that_fails_is_kept() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError, match="no"), watch.stage("restore"):
        raise ValueError("no")
    assert watch.last_stage == "restore"


def test_what_a_stage_contains_of_the_next_one_is_the_next_ones() -> None:
    watch = Stopwatch()
    with watch.stage("identity") as steps:
        steps.append(StageStep("clock", 0.0001))
        while watch.elapsed_s < 0.05:
            pass
    whole = watch.stages[0]
    with watch.stage("docker", before_s=0.02):
        pass
    identity, docker = watch.stages
    assert identity.duration_s == pytest.approx(whole.duration_s - 0.02, abs=2e-4)
    assert identity.steps == whole.steps
    assert docker.started_s == pytest.approx(identity.started_s + identity.duration_s, abs=2e-4)
    assert docker.duration_s >= 0.02


def test_a_stage_does_not_become_shorter_than_nothing() -> None:
    watch = Stopwatch()
    with watch.stage("identity"):
        pass
    with watch.stage("docker", before_s=60):
        pass
    identity, docker = watch.stages
    assert identity.duration_s == 0
    assert docker.started_s == identity.started_s

"""Workers as a model: legal transitions, and what a spec refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.model.errors import IllegalTransition, InvalidRequest
from warmboot.model.worker import (
    WORKER_TRANSITIONS,
    Mount,
    WorkerPolicy,
    WorkerSpec,
    WorkerState,
)

S = WorkerState


def test_every_state_has_its_row() -> None:
    assert set(WORKER_TRANSITIONS.table) == set(WorkerState)


@pytest.mark.parametrize("state", [s for s in WorkerState if s is not S.DELETING])
def test_a_worker_can_be_deleted_in_every_state(state: WorkerState) -> None:
    assert WORKER_TRANSITIONS.allows(state, S.DELETING)


def test_what_is_being_deleted_stays_so() -> None:
    assert not WORKER_TRANSITIONS.table[S.DELETING]


@pytest.mark.parametrize("busy", [S.CHECKPOINTING, S.PAUSING, S.RESUMING])
@pytest.mark.parametrize("other", [S.CHECKPOINTING, S.PAUSING, S.RESUMING])
def test_one_operation_at_a_time(busy: WorkerState, other: WorkerState) -> None:
    with pytest.raises(IllegalTransition):
        WORKER_TRANSITIONS.check(busy, other)


def test_only_what_runs_is_paused() -> None:
    assert WORKER_TRANSITIONS.sources(S.PAUSING) == {S.RUNNING}


def test_only_what_has_stopped_is_resumed() -> None:
    assert WORKER_TRANSITIONS.sources(S.RESUMING) == {S.PAUSED, S.EXITED, S.FAILED}


def test_a_failed_pause_or_resume_leads_back() -> None:
    assert WORKER_TRANSITIONS.allows(S.PAUSING, S.RUNNING)
    assert WORKER_TRANSITIONS.allows(S.RESUMING, S.PAUSED)
    assert WORKER_TRANSITIONS.allows(S.RESUMING, S.EXITED)


@given(st.lists(st.sampled_from(list(WorkerState)), max_size=12))
def test_a_paused_worker_runs_again_only_by_resuming(path: list[WorkerState]) -> None:
    state, seen = S.PAUSED, []
    for wanted in path:
        if WORKER_TRANSITIONS.allows(state, wanted):
            state = wanted
            seen.append(wanted)
    if S.RUNNING in seen:
        assert S.RESUMING in seen[: seen.index(S.RUNNING)]


@pytest.mark.parametrize("path", ["relative", "/a/../b", "", "/nul\0"])
def test_a_mount_needs_plain_absolute_paths(path: str) -> None:
    with pytest.raises(InvalidRequest):
        Mount(path, "/data")
    with pytest.raises(InvalidRequest):
        Mount("/data", path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pause_after_idle_s": 0},
        {"pause_after_idle_s": float("nan")},
        {"checkpoint_every_s": float("inf")},
        {"keep_checkpoints": 0},
        {"wake_on": (0,)},
        {"wake_on": (70000,)},
    ],
)
def test_a_policy_without_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        WorkerPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a/b"},
        {"name": ".."},
        {"image": ""},
        {"image": "two words"},
        {"environment": {"A=B": "c"}},
        {"environment": {"A": "\0"}},
    ],
)
def test_a_spec_without_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        WorkerSpec(**{"name": "worker", "image": "app:1", **wrong})  # type: ignore[arg-type]


def test_the_host_network_is_the_default() -> None:
    assert WorkerSpec(name="worker", image="app:1").network == "host"

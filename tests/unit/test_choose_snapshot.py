"""Which snapshot a boot uses, or why none: a table of every answer, and what always holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.manager.tenants.choose_snapshot import (
    Candidate,
    Fallback,
    Use,
    Wait,
    choose_snapshot,
)
from warmboot.model.runtime_snapshot import HostRequirements, RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import FallbackReason

HERE = HostRequirements("qemu", "10.0.2", "tcg", "q35", "max")
DEFAULT, LARGE = Shape(2, 768), Shape(4, 2048)
START = datetime(2026, 1, 1, tzinfo=UTC)
READY, CREATING, UNHEALTHY = (
    SnapshotState.READY,
    SnapshotState.CREATING,
    SnapshotState.UNHEALTHY,
)


def candidate(
    state: SnapshotState,
    *,
    shape: Shape = DEFAULT,
    age_s: int = 0,
    requires: HostRequirements = HERE,
    error: str = "",
) -> Candidate:
    snapshot = RuntimeSnapshot(
        id=uuid4(),
        runtime_image_id=UUID(int=1),
        snapshot_path=Path("/nowhere"),
        state=state,
        hypervisor=requires.hypervisor,
        fc_version=requires.hypervisor_version,
        shape=shape,
        created_at=START - timedelta(seconds=age_s),
        error={"brief": error} if error else None,
    )
    return Candidate(snapshot, None if state is CREATING else requires)


OTHER_VERSION = replace(HERE, hypervisor_version="9.0.0")
OTHER_CPU = replace(HERE, cpu_model="EPYC")


@pytest.mark.parametrize(
    ("candidates", "shape", "reason", "words"),
    [
        ([], None, FallbackReason.NO_SNAPSHOT, ""),
        ([], LARGE, FallbackReason.NO_SNAPSHOT, ""),
        ([candidate(READY)], LARGE, FallbackReason.SHAPE_MISMATCH, "2 vCPU, 768 MiB"),
        ([candidate(CREATING)], LARGE, FallbackReason.SHAPE_MISMATCH, "4 vCPU, 2048 MiB"),
        ([candidate(UNHEALTHY, error="boom")], None, FallbackReason.SNAPSHOT_UNHEALTHY, "boom"),
        (
            [candidate(READY, requires=OTHER_VERSION)],
            None,
            FallbackReason.VERSION_MISMATCH,
            "needs 9.0.0, this host has 10.0.2",
        ),
        ([candidate(READY, requires=OTHER_CPU)], None, FallbackReason.HOST_MISMATCH, "EPYC"),
        (
            [candidate(READY, requires=replace(HERE, hypervisor="firecracker"))],
            None,
            FallbackReason.HOST_MISMATCH,
            "firecracker",
        ),
        (
            [candidate(READY, requires=replace(HERE, accelerator="kvm"))],
            None,
            FallbackReason.HOST_MISMATCH,
            "kvm",
        ),
        (
            [candidate(READY, requires=replace(HERE, machine="microvm"))],
            None,
            FallbackReason.HOST_MISMATCH,
            "microvm",
        ),
        (
            [candidate(UNHEALTHY), candidate(READY, requires=OTHER_VERSION, age_s=9)],
            None,
            FallbackReason.VERSION_MISMATCH,
            "9.0.0",
        ),
        (
            [candidate(UNHEALTHY), candidate(READY, shape=LARGE)],
            DEFAULT,
            FallbackReason.SNAPSHOT_UNHEALTHY,
            "",
        ),
    ],
)
def test_every_reason_against(
    candidates: list[Candidate], shape: Shape | None, reason: FallbackReason, words: str
) -> None:
    choice = choose_snapshot(candidates, shape, DEFAULT, HERE)
    assert isinstance(choice, Fallback)
    assert choice.reason is reason
    assert words in choice.details


def test_ready_beats_being_made() -> None:
    ready, being_made = candidate(READY, age_s=100), candidate(CREATING)
    assert choose_snapshot([being_made, ready], None, DEFAULT, HERE) == Use(ready.snapshot)


def test_being_made_beats_a_reason_against() -> None:
    being_made = candidate(CREATING)
    others = [candidate(UNHEALTHY), candidate(READY, requires=OTHER_VERSION), being_made]
    assert choose_snapshot(others, None, DEFAULT, HERE) == Wait(being_made.snapshot)


def test_the_default_shape_comes_first_then_the_newest() -> None:
    old, new = candidate(READY, age_s=9), candidate(READY, age_s=1)
    large = candidate(READY, shape=LARGE)
    assert choose_snapshot([large, old, new], None, DEFAULT, HERE) == Use(new.snapshot)
    assert choose_snapshot([large], None, DEFAULT, HERE) == Use(large.snapshot)


states = st.sampled_from([READY, CREATING, UNHEALTHY])
shapes = st.sampled_from([DEFAULT, LARGE, Shape(1, 256)])
needs = st.sampled_from([HERE, OTHER_VERSION, OTHER_CPU])
some = st.lists(
    st.builds(candidate, states, shape=shapes, age_s=st.integers(0, 100), requires=needs),
    max_size=6,
    unique_by=lambda c: c.snapshot.created_at,
)


@given(some, st.none() | shapes)
def test_what_is_chosen_always_fits(candidates: list[Candidate], shape: Shape | None) -> None:
    choice = choose_snapshot(candidates, shape, DEFAULT, HERE)
    fitting = [c for c in candidates if shape in (None, c.snapshot.shape)]
    usable = [c.snapshot for c in fitting if c.snapshot.state is READY and c.requires == HERE]
    being_made = [c.snapshot for c in fitting if c.snapshot.state is CREATING]
    if usable:
        assert isinstance(choice, Use)
        assert choice.snapshot in usable
    elif being_made:
        assert isinstance(choice, Wait)
        assert choice.snapshot in being_made
    else:
        assert isinstance(choice, Fallback)


@given(some, st.none() | shapes, st.randoms())
def test_the_order_of_the_candidates_does_not_matter(
    candidates: list[Candidate], shape: Shape | None, random: Random
) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)
    first = choose_snapshot(candidates, shape, DEFAULT, HERE)
    assert choose_snapshot(shuffled, shape, DEFAULT, HERE) == first


@given(some, st.none() | shapes)
def test_a_good_snapshot_more_never_leads_to_a_cold_boot(
    candidates: list[Candidate], shape: Shape | None
) -> None:
    more = [*candidates, candidate(READY, shape=shape or DEFAULT)]
    assert isinstance(choose_snapshot(more, shape, DEFAULT, HERE), Use)


@given(some, st.none() | shapes)
def test_it_is_a_pure_decision(candidates: list[Candidate], shape: Shape | None) -> None:
    before = list(candidates)
    first = choose_snapshot(candidates, shape, DEFAULT, HERE)
    assert choose_snapshot(candidates, shape, DEFAULT, HERE) == first
    assert candidates == before

"""Which of several versions a boot draws: by weight, and what a weight of 0 means."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.manager.tenants.choose_snapshot import (
    Candidate,
    Fallback,
    Use,
    Wait,
    choose_snapshot,
    draw_version,
)
from warmboot.model.errors import InvalidRequest
from warmboot.model.runtime_snapshot import (
    MAX_WEIGHT,
    HostRequirements,
    RuntimeSnapshot,
    SnapshotState,
    check_weight,
)
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import FallbackReason

HERE = HostRequirements("qemu", "10.0.2", "tcg", "q35", "max", "q35,usb=off")
SHAPE, LARGE = Shape(2, 768), Shape(4, 2048)
START = datetime(2026, 1, 1, tzinfo=UTC)


def version(number: int, weight: float = 100.0, shape: Shape = SHAPE) -> RuntimeSnapshot:
    return RuntimeSnapshot(
        id=UUID(int=number),
        runtime_image_id=UUID(int=1000),
        snapshot_path=Path("/nowhere"),
        state=SnapshotState.READY,
        hypervisor="qemu",
        fc_version="10.0.2",
        shape=shape,
        created_at=START + timedelta(minutes=number),
        version=number,
        weight=weight,
    )


weights = st.floats(0, MAX_WEIGHT, allow_subnormal=False)
draws = st.floats(0, 1, exclude_max=True)
several = st.lists(weights, min_size=1, max_size=6).map(
    lambda found: [version(n + 1, weight) for n, weight in enumerate(found)]
)


def ready(versions: list[RuntimeSnapshot]) -> list[Candidate]:
    return [Candidate(one, HERE) for one in versions]


@given(several, draws)
def test_one_without_weight_is_only_drawn_when_none_has_any(
    versions: list[RuntimeSnapshot], draw: float
) -> None:
    drawn = draw_version(versions, draw)
    if any(one.weight > 0 for one in versions):
        assert drawn.weight > 0
    else:
        assert drawn == versions[-1], "the newest"


@given(several, draws, st.randoms())
def test_the_same_draw_gives_the_same_version_in_any_order(
    versions: list[RuntimeSnapshot], draw: float, random: Random
) -> None:
    shuffled = list(versions)
    random.shuffle(shuffled)
    assert draw_version(shuffled, draw) == draw_version(versions, draw)


@given(several, st.integers(0, 5))
def test_more_weight_never_means_drawn_less(versions: list[RuntimeSnapshot], which: int) -> None:
    chosen = versions[which % len(versions)]
    heavier = [replace(v, weight=v.weight * 2 + 1) if v is chosen else v for v in versions]

    def times(of: list[RuntimeSnapshot]) -> int:
        return sum(draw_version(of, n / 200).id == chosen.id for n in range(200))

    if any(v.weight for v in versions):
        assert times(heavier) >= times(versions) - 1  # one draw may fall on the border


@pytest.mark.parametrize(
    ("parts", "expected"),
    [((1, 0), (1.0, 0.0)), ((1, 1), (0.5, 0.5)), ((90, 10), (0.9, 0.1)), ((1, 2, 1), (0.25, 0.5))],
)
def test_each_is_drawn_as_often_as_its_weight_is_a_part_of_all(
    parts: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    versions = [version(n + 1, weight) for n, weight in enumerate(parts)]
    random, rounds = Random(7), 20_000
    drawn = Counter(draw_version(versions, random.random()).version for _ in range(rounds))
    for number, part in enumerate(expected, 1):
        assert abs(drawn[number] / rounds - part) < 0.02


@given(several, draws)
def test_every_version_comes_to_its_turn_when_the_others_fail(
    versions: list[RuntimeSnapshot], draw: float
) -> None:
    """Those with weight first; then the spares, the newest first."""
    tried: list[RuntimeSnapshot] = []
    while True:
        ids = [one.id for one in tried]
        choice = choose_snapshot(ready(versions), None, SHAPE, HERE, draw, ids)
        if not isinstance(choice, Use):
            break
        assert choice.snapshot.id not in ids
        tried.append(choice.snapshot)
    assert isinstance(choice, Fallback)
    assert len(tried) == len(versions)
    weighted = [one.weight > 0 for one in tried]
    assert weighted == sorted(weighted, reverse=True)
    standing_by = [one.version for one in tried if one.weight == 0]
    assert standing_by == sorted(standing_by, reverse=True)


def test_a_version_that_does_not_fit_here_is_not_drawn_whatever_its_weight() -> None:
    light, heavy = version(1, 1), version(2, 1000)
    elsewhere = replace(HERE, options="q35,hpet=off")
    candidates = [Candidate(light, HERE), Candidate(heavy, elsewhere)]
    for draw in (0.0, 0.5, 0.999):
        assert choose_snapshot(candidates, None, SHAPE, HERE, draw) == Use(light)


def test_machine_options_that_were_never_noted_are_not_held_against_it() -> None:
    old = Candidate(version(1), replace(HERE, options=""))
    assert choose_snapshot([old], None, SHAPE, HERE) == Use(old.snapshot)


def test_a_guest_agent_of_another_protocol_does_not_fit() -> None:
    stranger = replace(version(1), metadata={"agent_version": "99"})
    choice = choose_snapshot(ready([stranger]), None, SHAPE, HERE)
    assert isinstance(choice, Fallback)
    assert choice.reason is FallbackReason.HOST_MISMATCH
    assert "guest agent" in choice.details


def test_versions_of_other_shapes_do_not_take_part() -> None:
    small, large = version(1, 0), version(2, 1000, LARGE)
    for draw in (0.0, 0.9):
        choice = choose_snapshot(ready([small, large]), None, SHAPE, HERE, draw)
        assert choice == Use(small), "the default shape, though its only version has no weight"
        assert choose_snapshot(ready([small, large]), LARGE, SHAPE, HERE, draw) == Use(large)


def test_after_the_last_version_failed_one_that_is_made_is_named() -> None:
    tried, made = version(1), replace(version(2), state=SnapshotState.CREATING)
    candidates = [Candidate(tried, HERE), Candidate(made, None)]
    assert choose_snapshot(candidates, None, SHAPE, HERE, 0, [tried.id]) == Wait(made)


@pytest.mark.parametrize("weight", [-1, -0.001, float("nan"), float("inf"), MAX_WEIGHT + 1, True])
def test_what_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(InvalidRequest, match="is not a weight"):
        check_weight(weight)


@given(weights | st.integers(0, 1_000_000))
def test_every_other_number_is_a_weight(weight: float) -> None:
    assert check_weight(weight) == weight

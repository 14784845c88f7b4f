"""How many VMs the warm pool keeps of which snapshot: a pure decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.manager.vms.pool_size import (
    BURST_S,
    Bound,
    Poolable,
    PoolPolicy,
    bounds_of,
    peak,
    size_pool,
)

NOW = 100_000.0
POLICY = PoolPolicy(min_vms=1, max_vms=8, window_s=600.0, memory_share=0.25)
PLENTY_MIB = 100_000
EACH_MIB, SHAPE_MIB = 268, 768
A, B, C = (UUID(int=number) for number in range(1, 4))


def poolable(
    snapshot_id: UUID = A,
    boots: Sequence[float] = (),
    *,
    pooled: int = 0,
    idle: bool = True,
    used_at: float = 0.0,
) -> Poolable:
    """``boots``: seconds ago."""
    times = sorted(NOW - ago for ago in boots)
    return Poolable(snapshot_id, times, used_at, EACH_MIB, SHAPE_MIB, pooled, idle)


times = st.lists(st.floats(0, 2000, allow_nan=False), max_size=40)
some = st.lists(
    st.tuples(times, st.integers(0, 12), st.booleans(), st.floats(0, 9)), max_size=5
).map(
    lambda rows: [
        poolable(UUID(int=number), boots, pooled=pooled, idle=idle, used_at=used_at)
        for number, (boots, pooled, idle, used_at) in enumerate(rows, 1)
    ]
)
policies = st.tuples(st.integers(0, 6), st.integers(0, 10), st.floats(0.01, 0.9)).map(
    lambda row: PoolPolicy(row[0], row[0] + row[1], 600.0, row[2])
)
memories = st.integers(0, 20_000)


def test_nobody_asks_and_the_least_is_kept_of_the_one_used_last() -> None:
    found = [poolable(A, used_at=1), poolable(B, used_at=2), poolable(C, used_at=3, idle=False)]
    assert size_pool(found, POLICY, NOW, PLENTY_MIB).wanted == {B: 1}


def test_a_burst_is_what_is_kept_for() -> None:
    burst = poolable(A, [100, 105, 110, 118])
    assert size_pool([burst], POLICY, NOW, PLENTY_MIB).wanted == {A: 4}
    one_by_one = poolable(A, [100, 200, 300, 400])
    assert size_pool([one_by_one], POLICY, NOW, PLENTY_MIB).wanted == {A: 1}


def test_what_left_the_window_is_forgotten() -> None:
    old = poolable(A, [601, 605, 610], pooled=3)
    assert size_pool([old], POLICY, NOW, PLENTY_MIB).wanted == {A: 1}
    assert size_pool([replace(old, idle=False)], POLICY, NOW, PLENTY_MIB).wanted == {}


def test_each_that_is_asked_for_gets_its_own_before_one_gets_more() -> None:
    policy = replace(POLICY, max_vms=3)
    found = [poolable(A, [1, 2, 3, 4]), poolable(B, [50, 51], idle=False), poolable(C)]
    assert size_pool(found, policy, NOW, PLENTY_MIB).wanted == {A: 2, B: 1}


def test_one_size_as_the_earlier_setting_had_it() -> None:
    policy = replace(POLICY, min_vms=2, max_vms=2)
    assert size_pool([poolable(A)], policy, NOW, PLENTY_MIB).wanted == {A: 2}
    assert size_pool([poolable(A, [1] * 9)], policy, NOW, PLENTY_MIB).wanted == {A: 2}


def test_two_that_are_used_in_turns_do_not_drive_each_other_out() -> None:
    policy = replace(POLICY, max_vms=1)
    kept, boots = A, {A: [NOW], B: list[float]()}
    for number in range(1, 40):
        now = NOW + number
        boots[(A, B)[number % 2]].append(now)
        found = [
            replace(
                poolable(one, pooled=int(one == kept)), boots=boots[one], used_at=boots[one][-1]
            )
            for one in (A, B)
            if boots[one]
        ]
        (kept,) = size_pool(found, policy, now, PLENTY_MIB).wanted
        assert kept == A


@given(some, policies, memories, st.booleans())
def test_it_stays_within_its_bounds_and_within_memory(
    found: list[Poolable], policy: PoolPolicy, free_mib: int, may_grow: bool
) -> None:
    size = size_pool(found, policy, NOW, free_mib, may_grow=may_grow)
    by_id = {one.snapshot_id: one for one in found}
    total = sum(size.wanted.values())
    assert total <= policy.max_vms
    assert all(size.wanted.values()), "none of zero"
    taken_mib = total * EACH_MIB
    all_mib = free_mib + sum(one.pooled * EACH_MIB for one in found)
    assert taken_mib <= 1.5 * policy.memory_share * all_mib
    assert not total or all_mib - taken_mib >= SHAPE_MIB, "the next boot has its memory"
    for snapshot_id, count in size.wanted.items():
        one = by_id[snapshot_id]
        asked = peak(one.boots, NOW - policy.window_s)
        assert one.idle or asked
        assert may_grow or count <= one.pooled
        assert count <= max(asked, policy.min_vms)
    if not size.memory_short and any(one.idle for one in found):
        assert total >= policy.min_vms


@given(some, policies)
def test_memory_that_is_short_turns_it_off(found: list[Poolable], policy: PoolPolicy) -> None:
    empty = [replace(one, pooled=0) for one in found]
    size = size_pool(empty, policy, NOW, SHAPE_MIB)
    assert size.wanted == {}
    if policy.min_vms and any(one.idle for one in found):
        assert size.memory_short


def test_a_pool_larger_than_memory_is_cut_and_says_so() -> None:
    policy = replace(POLICY, min_vms=64, max_vms=64)
    size = size_pool([poolable(A)], policy, NOW, 10 * EACH_MIB)
    assert (dict(size.wanted), size.memory_short) == ({A: 2}, True)


@given(some, policies, memories)
def test_what_was_decided_is_decided_again_when_it_is_there(
    found: list[Poolable], policy: PoolPolicy, free_mib: int
) -> None:
    """Or VMs would be made and ended by turns, with nobody asking."""
    for _ in range(4):
        size = size_pool(found, policy, NOW, free_mib)
        grown_mib = sum(
            (size.wanted.get(one.snapshot_id, 0) - one.pooled) * EACH_MIB for one in found
        )
        settled = [replace(one, pooled=size.wanted.get(one.snapshot_id, 0)) for one in found]
        if settled == found:
            return
        found, free_mib = settled, free_mib - grown_mib
    pytest.fail(f"it does not settle: {found}, {free_mib} MiB")


@given(st.integers(1, 8), st.floats(31, 500), st.lists(st.integers(-15, 15), min_size=20))
def test_a_demand_and_a_memory_that_flap_change_nothing(
    burst: int, every_s: float, noise: list[int]
) -> None:
    """Bursts that come again within the window; memory that goes up and down by 15 per cent."""
    boots: list[float] = []
    sizes = [0]
    for number, percent in enumerate(noise):
        now = NOW + number * every_s / 2
        if number % 2 == 0:
            boots += [now] * burst
        used_mib = sizes[-1] * EACH_MIB
        free_mib = 6000 * (100 + percent) // 100 - used_mib
        one = replace(poolable(A, pooled=sizes[-1]), boots=boots)
        sizes.append(size_pool([one], POLICY, now, free_mib).wanted.get(A, 0))
    assert sizes == sorted(sizes), "it grows, and does not shrink"
    assert sizes[-1] >= min(burst, 4)


@given(times, st.floats(0, 2000))
def test_a_peak_is_the_fullest_span(ago: list[float], since_ago: float) -> None:
    boots, since = sorted(NOW - one for one in ago), NOW - since_ago
    late = [at for at in boots if at > since]
    counted = [sum(at - BURST_S <= other <= at for other in late) for at in late]
    assert peak(boots, since) == max(counted, default=0)


@pytest.mark.parametrize(
    ("least", "most", "lazy", "bounds"),
    [
        ("auto", "auto", True, (1, 8)),
        ("auto", "auto", False, (0, 0)),
        ("auto", 0, True, (0, 0)),
        ("auto", 3, False, (1, 3)),
        (2, "auto", False, (2, 8)),
        (20, "auto", True, (20, 20)),
        (2, 2, False, (2, 2)),
    ],
)
def test_bounds(least: Bound, most: Bound, lazy: bool, bounds: tuple[int, int]) -> None:
    assert bounds_of(least, most, lazy_memory=lazy) == bounds

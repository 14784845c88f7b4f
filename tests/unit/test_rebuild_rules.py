"""What fits, what is rebuilt by itself and when, which shapes get a snapshot: pure decisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.manager.snapshots.plan_rebuilds import RetryPolicy, plan_rebuilds
from warmboot.manager.snapshots.shape_demand import DemandPolicy, judge_demand
from warmboot.model.runtime_image import GUEST_PROTOCOLS
from warmboot.model.runtime_snapshot import (
    IMAGE,
    RECENT_BOOTS,
    BootStats,
    BuildCause,
    Depth,
    HostRequirements,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.shapes import Shape
from warmboot.model.snapshot_fit import GUEST_AGENT, FitKind, fit_of

HERE = HostRequirements("qemu", "10.0.2", "tcg", "q35", "max", "q35,usb=off")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
READY, CREATING, UNHEALTHY, DELETED = (
    SnapshotState.READY,
    SnapshotState.CREATING,
    SnapshotState.UNHEALTHY,
    SnapshotState.DELETED,
)
AGENT = min(GUEST_PROTOCOLS)
POLICY = RetryPolicy(attempts=3, pause_s=10)


def snapshot(
    state: SnapshotState,
    requires: HostRequirements | None = HERE,
    *,
    agent: str = AGENT,
    cause: BuildCause = BuildCause.REQUESTED,
    replaces: UUID | None = None,
    failures: int = 0,
    not_before: datetime | None = None,
) -> RuntimeSnapshot:
    metadata: dict[str, object] = {"agent_version": agent}
    if requires is not None:
        names = requires.__slots__
        metadata["requires"] = {n: getattr(requires, n) for n in names}
    return RuntimeSnapshot(
        id=uuid4(),
        runtime_image_id=UUID(int=1),
        snapshot_path=Path("/nowhere"),
        state=state,
        hypervisor="qemu",
        fc_version="10.0.2",
        shape=Shape(2, 768),
        created_at=NOW,
        metadata=metadata,
        cause=cause,
        replaces=replaces,
        rebuild_failures=failures,
        rebuild_not_before=not_before,
        error={"brief": "it broke"} if state is UNHEALTHY else None,
    )


# -- what fits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirement", "value"),
    [
        ("hypervisor", "firecracker"),
        ("hypervisor_version", "9.0.0"),
        ("accelerator", "kvm"),
        ("machine", "microvm"),
        ("cpu_model", "EPYC"),
        ("options", "q35,hpet=off"),
    ],
)
def test_what_a_ready_one_lacks_here_is_named(requirement: str, value: str) -> None:
    fit = fit_of(snapshot(READY, replace(HERE, **{requirement: value})), HERE)
    assert (fit.kind, fit.requirement, fit.usable) == (FitKind.NOT_HERE, requirement, False)
    assert value in fit.why


def test_a_guest_agent_that_is_not_understood_is_told_and_migrated() -> None:
    stranger = snapshot(READY, agent="99")
    fit = fit_of(stranger, HERE)
    assert (fit.kind, fit.requirement) == (FitKind.NOT_HERE, GUEST_AGENT)
    assert f"its protocol is 99, this warmboot speaks {AGENT}" in fit.why
    (due,) = plan_rebuilds([stranger], HERE, NOW, POLICY).due
    assert (due.snapshot, due.cause, due.why) == (stranger, BuildCause.MIGRATION, fit.why)


def test_an_image_of_bare_files_does_not_tell_its_agent_and_is_let_pass() -> None:
    assert fit_of(snapshot(READY, agent="unknown"), HERE).usable


def test_broken_is_told_apart_from_unfit_and_from_unfinished() -> None:
    elsewhere = replace(HERE, cpu_model="EPYC")
    assert fit_of(snapshot(UNHEALTHY, elsewhere), HERE).kind is FitKind.BROKEN
    assert fit_of(snapshot(UNHEALTHY), HERE).why == "it broke"
    assert fit_of(snapshot(READY), HERE).usable
    for state in (CREATING, DELETED):
        assert fit_of(snapshot(state, None), HERE).kind is FitKind.NOT_READY


# -- what is rebuilt -------------------------------------------------------------------------------


def test_broken_and_unfit_ones_are_due_each_with_its_cause() -> None:
    broken = snapshot(UNHEALTHY)
    unfit = snapshot(READY, replace(HERE, hypervisor_version="9"))
    plan = plan_rebuilds([broken, unfit, snapshot(READY)], HERE, NOW, POLICY)
    causes = {due.snapshot.id: due.cause for due in plan.due}
    assert causes == {broken.id: BuildCause.UNHEALTHY, unfit.id: BuildCause.MIGRATION}
    assert plan.next_at is None


def test_a_build_that_a_user_has_ordered_and_that_failed_is_left_to_the_user() -> None:
    never_ready = snapshot(UNHEALTHY, None)
    assert plan_rebuilds([never_ready], HERE, NOW, POLICY).due == ()
    by_itself = snapshot(UNHEALTHY, None, cause=BuildCause.REGISTERED)
    (due,) = plan_rebuilds([by_itself], HERE, NOW, POLICY).due
    assert due.snapshot is by_itself


def test_one_that_is_being_rebuilt_is_not_due() -> None:
    broken = snapshot(UNHEALTHY)
    successor = snapshot(CREATING, None, replaces=broken.id)
    assert plan_rebuilds([broken, successor], HERE, NOW, POLICY).due == ()


def test_after_failures_it_waits_and_at_last_gives_up() -> None:
    soon = NOW + timedelta(seconds=5)
    waiting = snapshot(UNHEALTHY, failures=1, not_before=soon)
    plan = plan_rebuilds([waiting], HERE, NOW, POLICY)
    assert (plan.due, plan.next_at) == ((), soon)
    assert plan_rebuilds([waiting], HERE, soon, POLICY).due[0].snapshot is waiting
    given_up = snapshot(UNHEALTHY, failures=3, not_before=NOW)
    plan = plan_rebuilds([given_up], HERE, NOW + timedelta(days=1), POLICY)
    assert (plan.due, plan.next_at) == ((), None)


def test_the_one_that_is_used_most_comes_first() -> None:
    seldom, often = snapshot(UNHEALTHY), replace(snapshot(UNHEALTHY), success_count=9)
    plan = plan_rebuilds([seldom, often], HERE, NOW, POLICY)
    assert [due.snapshot for due in plan.due] == [often, seldom]


def with_image(one: RuntimeSnapshot) -> RuntimeSnapshot:
    return replace(one, depth=Depth.IMAGE, metadata={**one.metadata, IMAGE: "redis:latest"})


def test_a_broken_version_comes_before_images_however_often_those_are_used() -> None:
    base, broken = snapshot(READY), snapshot(UNHEALTHY)
    often = replace(with_image(snapshot(UNHEALTHY)), success_count=9)
    plan = plan_rebuilds([often, broken, base], HERE, NOW, POLICY)
    assert [due.snapshot for due in plan.due] == [broken, often]


def test_while_an_image_is_prepared_no_other_is_and_a_version_does_not_wait_for_it() -> None:
    """Its registry may take hours."""
    base, broken, other = snapshot(READY), snapshot(UNHEALTHY), with_image(snapshot(UNHEALTHY))
    slow = with_image(snapshot(CREATING, None, cause=BuildCause.DEMAND))
    plan = plan_rebuilds([base, broken, other, slow], HERE, NOW, POLICY)
    assert [due.snapshot for due in plan.due] == [broken]
    ordered = replace(slow, cause=BuildCause.REQUESTED)
    plan = plan_rebuilds([base, other, ordered], HERE, NOW, POLICY)
    assert [due.snapshot for due in plan.due] == [other]


@given(st.integers(1, 1000), st.floats(0.1, 10_000))
def test_pauses_grow_up_to_an_hour(failures: int, pause_s: float) -> None:
    policy = RetryPolicy(attempts=5, pause_s=pause_s)
    pause = policy.pause_after(failures)
    assert timedelta(0) < pause <= timedelta(hours=1)
    assert pause <= policy.pause_after(failures + 1)


snapshots = st.lists(
    st.builds(
        snapshot,
        st.sampled_from(list(SnapshotState)),
        st.sampled_from([HERE, replace(HERE, cpu_model="EPYC"), None]),
        agent=st.sampled_from([AGENT, "99", "unknown"]),
        cause=st.sampled_from(list(BuildCause)),
        failures=st.integers(0, 5),
        not_before=st.none() | st.sampled_from([NOW - timedelta(1), NOW + timedelta(1)]),
    ),
    max_size=8,
)


@given(snapshots)
def test_nothing_good_is_rebuilt_and_nothing_before_its_time(found: list[RuntimeSnapshot]) -> None:
    plan = plan_rebuilds(found, HERE, NOW, POLICY)
    for due in plan.due:
        one = due.snapshot
        assert one.state in (READY, UNHEALTHY)
        assert not fit_of(one, HERE).usable
        assert one.rebuild_failures < POLICY.attempts
        assert one.rebuild_not_before is None or one.rebuild_not_before <= NOW
    assert plan.next_at is None or plan.next_at > NOW
    assert len({due.snapshot.id for due in plan.due}) == len(plan.due)


# -- shapes in demand ------------------------------------------------------------------------------

DEMAND = DemandPolicy(boots=3, window_s=100)


def ago(*seconds: float) -> list[datetime]:
    return [NOW - timedelta(seconds=s) for s in seconds]


@pytest.mark.parametrize(
    ("misses", "active", "has_room", "words"),
    [
        (ago(1, 2), 1, True, "it takes 3"),
        (ago(1, 2, 101), 1, True, "2 times within 100 s"),
        (ago(1, 2, 3), 10, True, "MANAGER_MAX_RUNTIME_SNAPSHOTS is 10"),
        (ago(1, 2, 3), 1, False, "floor"),
    ],
)
def test_a_shape_gets_none_and_it_is_said_why(
    misses: list[datetime], active: int, has_room: bool, words: str
) -> None:
    demand = judge_demand(misses, NOW, DEMAND, active=active, max_active=10, has_room=has_room)
    assert not demand.build
    assert words in demand.why


def test_a_shape_that_is_asked_for_often_gets_one() -> None:
    demand = judge_demand(ago(1, 50, 99), NOW, DEMAND, active=9, max_active=10, has_room=True)
    assert (demand.build, demand.asked) == (True, 3)


@given(
    st.lists(st.floats(-1000, 1000).map(lambda s: NOW - timedelta(seconds=s)), max_size=10),
    st.integers(0, 5),
    st.integers(0, 12),
    st.booleans(),
)
def test_demand_never_goes_beyond_what_is_allowed(
    misses: list[datetime], boots: int, active: int, has_room: bool
) -> None:
    policy = DemandPolicy(boots=boots, window_s=100)
    demand = judge_demand(misses, NOW, policy, active=active, max_active=10, has_room=has_room)
    assert demand.why
    if demand.build:
        assert boots > 0
        assert demand.asked >= boots
        assert active < 10
        assert has_room
    more = judge_demand(
        [*misses, NOW], NOW, policy, active=active, max_active=10, has_room=has_room
    )
    assert more.build >= demand.build, "asked for once more, it is not refused what it had"


# -- statistics ------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1000), max_size=RECENT_BOOTS * 2))
def test_statistics_count_all_and_keep_the_last(seconds: list[float]) -> None:
    stats = BootStats()
    for one in seconds:
        stats = stats.plus(one)
    assert stats.count == len(seconds)
    assert len(stats.recent_s) == min(len(seconds), RECENT_BOOTS)
    if not seconds:
        assert (stats.mean_s, stats.median_s) == (None, None)
    else:
        assert stats.mean_s == pytest.approx(sum(seconds) / len(seconds), abs=1e-2)
        assert min(stats.recent_s) <= (stats.median_s or 0) <= max(stats.recent_s)


# -- a full disk -----------------------------------------------------------------------------------


def put_off(policy: RetryPolicy, ago_s: float) -> RuntimeSnapshot:
    """By a full disk, so long ago."""
    until = NOW - timedelta(seconds=ago_s) + policy.pause_without_verdict
    return replace(snapshot(UNHEALTHY, not_before=until), rebuild_put_off_by="disk-full")


def test_what_a_full_disk_has_put_off_is_due_once_there_is_room() -> None:
    policy = RetryPolicy(pause_s=30)
    waiting = put_off(policy, ago_s=31)
    assert plan_rebuilds([waiting], HERE, NOW, policy, room_mib=767).due == ()
    (due,) = plan_rebuilds([waiting], HERE, NOW, policy, room_mib=768).due
    assert due.snapshot is waiting


def test_an_image_needs_as_much_room_as_it_took() -> None:
    policy = RetryPolicy(pause_s=30)
    waiting = with_image(put_off(policy, ago_s=31))
    large = replace(waiting, metadata={**waiting.metadata, "size_bytes": 3 << 30})
    found = [snapshot(READY), large]
    assert plan_rebuilds(found, HERE, NOW, policy, room_mib=3071).due == ()
    (due,) = plan_rebuilds(found, HERE, NOW, policy, room_mib=3072).due
    assert due.snapshot is large


def test_rebuilds_do_not_fill_a_disk_again_and_again() -> None:
    policy = RetryPolicy(pause_s=30)
    plan = plan_rebuilds([put_off(policy, ago_s=10)], HERE, NOW, policy, room_mib=1 << 20)
    assert (plan.due, plan.next_at) == ((), NOW + timedelta(seconds=20))


def test_room_hastens_nothing_that_was_put_off_for_another_cause() -> None:
    policy = RetryPolicy(pause_s=30)
    waiting = replace(put_off(policy, ago_s=31), rebuild_put_off_by="unavailable")
    assert plan_rebuilds([waiting], HERE, NOW, policy, room_mib=1 << 20).due == ()


def test_nothing_is_rebuilt_from_a_damaged_image() -> None:
    broken = snapshot(UNHEALTHY)
    image_id = broken.runtime_image_id
    assert plan_rebuilds([broken], HERE, NOW, POLICY, damaged_images={image_id}).due == ()

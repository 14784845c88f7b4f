"""When memory is stored in another form, and which snapshot is checked next."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.manager.housekeeping import HousekeepingConfig
from warmboot.manager.snapshots.choose_form import (
    CHECKED_AT,
    Form,
    FormPolicy,
    RecentUse,
    choose_check,
    choose_forms,
)
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
POLICY = FormPolicy(compress_after=DAY, unpack_after=3)


def snapshot(unused: timedelta = HOUR, **fields: Any) -> RuntimeSnapshot:
    compressed = fields.pop("compressed", False)
    values: dict[str, Any] = {
        "id": uuid4(),
        "runtime_image_id": uuid4(),
        "snapshot_path": Path("/s"),
        "state": SnapshotState.READY,
        "hypervisor": "simulated",
        "fc_version": "1.0",
        "shape": Shape(1, 256),
        "created_at": NOW - 90 * DAY,
        "last_used_at": NOW - unused,
        "metadata": {"compressed": compressed},
        **fields,
    }
    return RuntimeSnapshot(**values)


def chosen(one: RuntimeSnapshot, boots: int = 0, **options: Any) -> list[Form]:
    others = options.get("others", ())
    policy, leased = options.get("policy", POLICY), options.get("leased", ())
    found = choose_forms([one, *others], {one.id: boots}, leased, policy, NOW)
    return [form for snapshot, form in found if snapshot.id == one.id]


@pytest.mark.parametrize(("unused", "goes"), [(23 * HOUR, False), (24 * HOUR, True)])
def test_what_was_not_used_for_so_long_is_compressed(unused: timedelta, goes: bool) -> None:
    assert chosen(snapshot(unused)) == ([Form.COMPRESSED] if goes else [])


@pytest.mark.parametrize(("boots", "hot"), [(2, False), (3, True), (4, True)])
def test_what_is_used_again_and_again_is_unpacked(boots: int, hot: bool) -> None:
    assert chosen(snapshot(compressed=True), boots) == ([Form.PLAIN] if hot else [])


def test_what_has_the_right_form_stays() -> None:
    assert chosen(snapshot(9 * DAY, compressed=True)) == []
    assert chosen(snapshot(), 9) == []


def test_what_a_vm_maps_is_not_compressed() -> None:
    cold = snapshot(9 * DAY)
    assert chosen(cold, leased={cold.id}) == []


def test_what_is_about_to_be_replaced_is_left_alone() -> None:
    cold = snapshot(9 * DAY)
    successor = snapshot(state=SnapshotState.CREATING, replaces=cold.id)
    assert chosen(cold, others=[successor]) == []


@pytest.mark.parametrize("state", [s for s in SnapshotState if s is not SnapshotState.READY])
def test_only_what_is_ready_changes(state: SnapshotState) -> None:
    assert chosen(snapshot(9 * DAY, state=state)) == []


def test_both_can_be_turned_off() -> None:
    off = FormPolicy()
    assert chosen(snapshot(999 * DAY), policy=off) == []
    assert chosen(snapshot(compressed=True), 999, policy=off) == []


@given(
    st.lists(st.tuples(st.integers(0, 72), st.booleans(), st.integers(0, 6)), max_size=6),
    st.none() | st.integers(0, 48),
    st.none() | st.integers(1, 5),
)
def test_a_form_that_was_chosen_stays_chosen(
    given_: list[tuple[int, bool, int]], after_h: int | None, boots: int | None
) -> None:
    """No snapshot goes to and fro while nothing else happens."""
    policy = FormPolicy(None if after_h is None else after_h * HOUR, boots)
    found = [snapshot(hours * HOUR, compressed=form) for hours, form, _ in given_]
    recent = {s.id: used for s, (_, _, used) in zip(found, given_, strict=True)}
    changes = {s.id: form for s, form in choose_forms(found, recent, (), policy, NOW)}
    then = [
        replace(s, metadata={"compressed": changes[s.id] is Form.COMPRESSED})
        if s.id in changes
        else s
        for s in found
    ]
    assert choose_forms(then, recent, (), policy, NOW) == []


def test_boots_are_counted_within_a_while_only() -> None:
    recent, one = RecentUse(HOUR), snapshot(success_count=10)
    assert recent.note([one], NOW) == {one.id: 0}
    used = replace(one, success_count=12)
    assert recent.note([used], NOW + HOUR / 2) == {one.id: 2}
    assert recent.note([used], NOW + 2 * HOUR) == {one.id: 0}, "a new while has begun"
    assert recent.note([], NOW + 2 * HOUR) == {}


def test_the_check_that_is_due_for_longest_is_next() -> None:
    def checked(days: float) -> RuntimeSnapshot:
        return snapshot(metadata={CHECKED_AT: (NOW - days * DAY).isoformat()})

    fresh, due, overdue = checked(0.5), checked(1), checked(3)
    assert choose_check([fresh, due, overdue], DAY, NOW) == overdue
    assert choose_check([fresh, due], DAY, NOW) == due
    assert choose_check([fresh], DAY, NOW) is None
    assert choose_check([overdue], None, NOW) is None


def test_a_new_snapshot_counts_as_checked_when_it_was_built() -> None:
    assert choose_check([snapshot(created_at=NOW - HOUR)], DAY, NOW) is None
    assert choose_check([snapshot(created_at=NOW - 2 * DAY)], DAY, NOW) is not None


def test_only_what_is_ready_is_checked() -> None:
    assert choose_check([snapshot(state=SnapshotState.UNHEALTHY)], DAY, NOW) is None


def test_it_is_looked_often_enough_for_the_shortest_interval() -> None:
    assert HousekeepingConfig().round_every_s == 60
    short = HousekeepingConfig(check_every=timedelta(seconds=8))
    assert short.round_every_s == 2
    assert HousekeepingConfig(check_every=timedelta(microseconds=1)).round_every_s == 0.05
    assert HousekeepingConfig(None, None).round_every_s == 60

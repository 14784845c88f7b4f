"""What may go, and what never: properties of the decision, and its rules one by one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.manager.garbage.choose_garbage import (
    ARCHIVE_KEPT,
    GRACE,
    UNFINISHED_KEPT,
    Limits,
    Seen,
    active_count,
    choose_garbage,
    is_relied_on,
    last_used,
)
from warmboot.model.garbage import Cached, DiskEntry, Garbage, Kept, Kind, Why
from warmboot.model.runtime_snapshot import Depth, RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape

NOW = datetime(2026, 3, 1, tzinfo=UTC)
IMAGE = uuid4()
READY, UNHEALTHY = SnapshotState.READY, SnapshotState.UNHEALTHY
CREATING, DELETED = SnapshotState.CREATING, SnapshotState.DELETED


def snapshot(
    state: SnapshotState = READY, unused_days: float = 1, **fields: Any
) -> RuntimeSnapshot:
    values: dict[str, Any] = {
        "id": uuid4(),
        "runtime_image_id": IMAGE,
        "snapshot_path": Path("/s"),
        "state": state,
        "hypervisor": "simulated",
        "fc_version": "1.0",
        "shape": Shape(1, 256),
        "created_at": NOW - timedelta(days=100),
        "last_used_at": NOW - timedelta(days=unused_days),
        "metadata": {"size_bytes": 1000},
        **fields,
    }
    return RuntimeSnapshot(**values)


ages = st.timedeltas(timedelta(0), timedelta(days=90))
uuids = st.builds(uuid4)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Seen, Limits]:
    """Snapshots in any state, some replacing others, leased, busy, pinned; files; caches."""
    found: list[RuntimeSnapshot] = []
    for _ in range(draw(st.integers(0, 8))):
        replaces = draw(st.none() | st.sampled_from([s.id for s in found])) if found else None
        found.append(
            snapshot(
                draw(st.sampled_from(SnapshotState)),
                draw(st.floats(0, 90)),
                pinned=draw(st.booleans()),
                replaces=replaces,
                success_count=draw(st.integers(0, 5)),
            )
        )
    ids = [s.id for s in found]
    some = st.lists(st.sampled_from(ids), unique=True) if ids else st.just([])
    entries = [
        DiskEntry(draw(st.sampled_from(Kind)), Path(f"/l{n}"), draw(owners), 10, NOW - draw(ages))
        for n in range(draw(st.integers(0, 5)))
    ]
    caches = [
        Cached(
            Path(f"/c{n}"),
            draw(st.integers(0, 100)),
            NOW - draw(ages),
            draw(st.booleans()),
            draw(owners),
        )
        for n in range(draw(st.integers(0, 5)))
    ]
    seen = Seen(
        found,
        frozenset(draw(some)),
        frozenset(draw(some)),
        entries,
        draw(st.dictionaries(st.sampled_from(Kind), st.frozensets(owners))),
        {},
        caches,
        draw(st.integers(0, 300)),
    )
    limits = Limits(
        draw(st.integers(1, 6)),
        draw(st.none() | ages),
        draw(st.integers(0, 300)),
        draw(st.integers(0, 300)),
        draw(st.integers(0, 2)),
    )
    return seen, limits


owners = st.sampled_from(["a", "b", "c"])


def chosen_ids(garbage: Collection[Garbage]) -> set[UUID]:
    return {one.snapshot_id for one in garbage if one.snapshot_id is not None}


def after(seen: Seen, garbage: Collection[Garbage]) -> Seen:
    """The world once everything that was chosen has gone."""
    gone, paths = chosen_ids(garbage), {one.path for one in garbage}
    return replace(
        seen,
        snapshots=[s for s in seen.snapshots if s.id not in gone],
        entries=[one for one in seen.entries if one.path not in paths],
        caches=[one for one in seen.caches if one.path not in paths],
        free_bytes=seen.free_bytes + sum(one.size_bytes for one in garbage),
    )


@given(worlds())
def test_what_is_in_use_is_never_touched(world: tuple[Seen, Limits]) -> None:
    seen, limits = world
    garbage = choose_garbage(seen, limits, NOW)
    chosen = chosen_ids(garbage)
    for one in seen.snapshots:
        if one.id in seen.leased or one.state is CREATING:
            assert one.id not in chosen
        if one.state is not DELETED and (
            one.pinned or one.id in seen.busy or is_relied_on(one, seen.snapshots)
        ):
            assert one.id not in chosen
    paths = {one.path for one in garbage}
    assert not paths & {cached.path for cached in seen.caches if cached.in_use}
    for entry in seen.entries:
        if entry.owner in seen.known.get(entry.kind, ()):
            assert entry.path not in paths


@given(worlds())
def test_each_thing_goes_once_and_then_there_is_nothing_left(world: tuple[Seen, Limits]) -> None:
    seen, limits = world
    garbage = choose_garbage(seen, limits, NOW)
    names = [one.snapshot_id or one.path for one in garbage]
    assert len(names) == len(set(names))
    assert choose_garbage(after(seen, garbage), limits, NOW) == ()


@given(worlds())
def test_the_limits_hold_afterwards_or_nothing_more_may_go(world: tuple[Seen, Limits]) -> None:
    seen, limits = world
    then = after(seen, choose_garbage(seen, limits, NOW))
    free = [
        s
        for s in then.snapshots
        if s.state in (READY, UNHEALTHY)
        and not s.pinned
        and s.id not in (*seen.leased, *seen.busy)
        and not is_relied_on(s, then.snapshots)
    ]
    if free:
        assert active_count(then.snapshots) + limits.room_for <= limits.max_active
    for one in free:
        assert limits.unused_after is None or NOW - last_used(one) < limits.unused_after
    if any(not cached.in_use for cached in then.caches):
        assert sum(cached.size_bytes for cached in then.caches) <= limits.cache_budget_bytes
        assert then.free_bytes >= limits.disk_floor_bytes


@given(worlds())
def test_no_more_goes_than_must(world: tuple[Seen, Limits]) -> None:
    seen, limits = world
    garbage = choose_garbage(seen, limits, NOW)
    if any(one.why is Why.OVER_LIMIT for one in garbage):
        then = after(seen, garbage)
        assert active_count(then.snapshots) + limits.room_for >= limits.max_active


@given(worlds())
def test_of_too_many_the_one_unused_for_longest_goes(world: tuple[Seen, Limits]) -> None:
    seen, limits = world
    garbage = choose_garbage(seen, limits, NOW)
    over = {one.snapshot_id for one in garbage if one.why is Why.OVER_LIMIT}
    stay = after(seen, garbage).snapshots
    for gone in (s for s in seen.snapshots if s.id in over and s.state is READY):
        for other in stay:
            protected = (
                other.pinned
                or other.id in (*seen.leased, *seen.busy)
                or is_relied_on(other, seen.snapshots)
            )
            if other.state is READY and not protected:
                assert last_used(gone) <= last_used(other)


def why(seen: Seen, limits: Limits | None = None) -> list[Why]:
    return [one.why for one in choose_garbage(seen, limits or Limits(10), NOW)]


def test_deleted_ones_go_once_nobody_maps_them() -> None:
    gone = snapshot(DELETED)
    assert why(Seen([gone])) == [Why.DELETED]
    assert why(Seen([gone], leased={gone.id})) == []


@pytest.mark.parametrize(("days", "goes"), [(29.9, False), (30, True), (60, True)])
def test_those_unused_for_thirty_days_go(days: float, goes: bool) -> None:
    assert why(Seen([snapshot(unused_days=days)])) == ([Why.UNUSED] if goes else [])


def test_one_that_was_never_used_counts_from_when_it_was_made() -> None:
    young = snapshot(created_at=NOW - timedelta(days=29), last_used_at=None)
    old = snapshot(created_at=NOW - timedelta(days=31), last_used_at=None)
    garbage = choose_garbage(Seen([young, old]), Limits(10), NOW)
    assert chosen_ids(garbage) == {old.id}


def test_without_a_limit_of_days_none_is_too_old() -> None:
    assert why(Seen([snapshot(unused_days=900)]), Limits(10, None)) == []


def test_the_old_one_stays_while_its_rebuild_is_under_way() -> None:
    old = snapshot(unused_days=60)
    new = snapshot(CREATING, replaces=old.id)
    assert why(Seen([old, new]), Limits(1)) == []
    done = [old, replace(new, state=READY, last_used_at=NOW)]
    assert why(Seen(done), Limits(1)) == [Why.UNUSED]


def test_what_cannot_be_used_goes_before_what_can() -> None:
    used, broken = snapshot(unused_days=9), snapshot(UNHEALTHY, unused_days=1)
    garbage = choose_garbage(Seen([used, broken]), Limits(1), NOW)
    assert chosen_ids(garbage) == {broken.id}


def test_room_is_made_for_one_that_is_to_come() -> None:
    older, newer = snapshot(unused_days=9), snapshot(unused_days=2)
    assert why(Seen([older, newer]), Limits(2)) == []
    garbage = choose_garbage(Seen([older, newer]), Limits(2, room_for=1), NOW)
    assert chosen_ids(garbage) == {older.id}


def test_a_rebuild_gives_its_place_back_and_takes_none() -> None:
    old = snapshot()
    assert active_count([old, snapshot(CREATING, replaces=old.id)]) == 1
    assert active_count([old, snapshot(CREATING)]) == 2, "a first build takes one"
    assert active_count([old, snapshot(replaces=old.id)]) == 2, "it is not swapped in yet"
    gone = snapshot(DELETED)
    assert active_count([gone, snapshot(CREATING, replaces=gone.id)]) == 1


def entry(kind: Kind, owner: str = "x", age: timedelta = timedelta(days=2)) -> DiskEntry:
    return DiskEntry(kind, Path(f"/{kind}-{owner}"), owner, 7, NOW - age)


CHOSEN_OTHERWISE = (Kind.SNAPSHOT, Kind.CACHE)


@pytest.mark.parametrize("kind", [k for k in Kind if k not in CHOSEN_OTHERWISE])
def test_orphans_of_every_kind_go_and_what_somebody_owns_stays(kind: Kind) -> None:
    one = entry(kind)
    (garbage,) = choose_garbage(Seen(entries=[one]), Limits(10), NOW)
    assert (garbage.kind, garbage.path, garbage.size_bytes) == (kind, one.path, 7)
    assert garbage.why in (Why.ORPHAN, Why.UNFINISHED)
    assert why(Seen(entries=[one], known={kind: {"x"}})) == []


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (Kind.ARCHIVE, ARCHIVE_KEPT),
        (Kind.TEMPORARY, UNFINISHED_KEPT),
        (Kind.VM_FOLDER, UNFINISHED_KEPT),
        (Kind.RESTORE_COPY, UNFINISHED_KEPT),
        (Kind.CHECKPOINT_FOLDER, UNFINISHED_KEPT),
    ],
)
def test_what_somebody_may_just_be_writing_is_given_time(kind: Kind, kept: timedelta) -> None:
    assert why(Seen(entries=[entry(kind, age=kept - timedelta(seconds=1))])) == []
    assert len(why(Seen(entries=[entry(kind, age=kept)]))) == 1


@pytest.mark.parametrize("kind", [k for k in Kind if k not in (*GRACE, *CHOSEN_OTHERWISE)])
def test_what_nobody_can_just_be_writing_goes_at_once(kind: Kind) -> None:
    assert len(why(Seen(entries=[entry(kind, age=timedelta(0))]))) == 1


def cached(name: str, size: int, days: float, *, in_use: bool = False) -> Cached:
    return Cached(Path(f"/{name}"), size, NOW - timedelta(days=days), in_use)


def test_caches_shrink_to_their_budget_and_below_the_floor_further() -> None:
    caches = [cached("a", 50, 3), cached("b", 50, 2), cached("c", 50, 1)]
    limits = Limits(10, cache_budget_bytes=100, disk_floor_bytes=0)
    chosen = choose_garbage(Seen(caches=caches), limits, NOW)
    assert [(one.name, one.why) for one in chosen] == [("a", Why.OVER_BUDGET)]
    tight = replace(limits, disk_floor_bytes=90)
    chosen = choose_garbage(Seen(caches=caches, free_bytes=10), tight, NOW)
    assert [(one.name, one.why) for one in chosen] == [
        ("a", Why.OVER_BUDGET),
        ("b", Why.LOW_DISK),
    ]


def test_what_goes_anyway_counts_as_room() -> None:
    seen = Seen(
        [snapshot(DELETED, metadata={"size_bytes": 100})], caches=[cached("a", 50, 1)], free_bytes=0
    )
    limits = Limits(10, cache_budget_bytes=100, disk_floor_bytes=90)
    assert why(seen, limits) == [Why.DELETED]


def test_the_cache_of_a_snapshot_that_is_no_more_goes_first() -> None:
    orphan, used = replace(cached("a", 50, 1), owner="gone"), cached("b", 50, 9)
    known = {Kind.CACHE: {""}}
    limits = Limits(10, cache_budget_bytes=50)
    chosen = choose_garbage(Seen(caches=[used, orphan], known=known), limits, NOW)
    assert [(one.name, one.why) for one in chosen] == [("a", Why.ORPHAN)]


def test_what_removing_a_snapshot_frees_is_what_was_measured() -> None:
    gone = snapshot(DELETED)
    (garbage,) = choose_garbage(Seen([gone], sizes={str(gone.id): 12}), Limits(1), NOW)
    assert garbage.size_bytes == 12


kept = st.builds(
    Kept,
    id=uuids,
    name=st.just("w/cp"),
    path=st.builds(lambda one: Path(f"/{one}"), uuids),
    size_bytes=st.integers(0, 100),
    created_at=st.builds(lambda age: NOW - age, ages),
    needed=st.booleans(),
)


@given(st.lists(kept, max_size=8), st.integers(0, 300))
def test_checkpoints_keep_their_budget_and_what_is_needed_stays(
    checkpoints: list[Kept], budget_bytes: int
) -> None:
    limits = Limits(10, checkpoint_budget_bytes=budget_bytes)
    chosen = {one.path for one in choose_garbage(Seen(checkpoints=checkpoints), limits, NOW)}
    going = [one for one in checkpoints if one.path in chosen]
    staying = [one for one in checkpoints if one.path not in chosen]
    may_still_go = [one for one in staying if not one.needed]
    assert not any(one.needed for one in going)
    assert budget_bytes or not going
    if budget_bytes and may_still_go:
        assert sum(one.size_bytes for one in staying) <= budget_bytes
    for one in going:  # none goes in vain, and the oldest first
        assert all(one.created_at <= other.created_at for other in may_still_go)
    if going:
        last = max(going, key=lambda one: (one.created_at, one.id))
        assert sum(one.size_bytes for one in (*staying, last)) > budget_bytes


def test_a_folder_that_goes_takes_what_is_in_it() -> None:
    old = NOW - timedelta(days=1)
    outer = DiskEntry(Kind.CHECKPOINT_FOLDER, Path("/w"), "w", 30, old)
    inner = DiskEntry(Kind.CHECKPOINT_FOLDER, Path("/w/cp"), "w/cp", 20, old)
    assert [one.path for one in choose_garbage(Seen(entries=[outer, inner]), Limits(10), NOW)] == [
        Path("/w")
    ]
    known = {Kind.CHECKPOINT_FOLDER: {"w"}}
    seen = Seen(entries=[outer, inner], known=known)
    assert [one.path for one in choose_garbage(seen, Limits(10), NOW)] == [Path("/w/cp")]


def test_prepared_images_have_bounds_of_their_own() -> None:
    version = snapshot(unused_days=20)
    images = [snapshot(unused_days=days, depth=Depth.IMAGE) for days in (1, 3, 2)]
    pinned = snapshot(unused_days=25, depth=Depth.IMAGE, pinned=True)
    seen = Seen(snapshots=[version, *images, pinned])

    def gone(**limits: Any) -> list[tuple[UUID | None, Why]]:
        chosen = choose_garbage(seen, Limits(1, **limits), NOW)
        return [(one.snapshot_id, one.why) for one in chosen]

    newest, oldest, middle = (one.id for one in images)
    assert gone() == []
    assert gone(room_for_images=1, max_images=4) == [(oldest, Why.OVER_LIMIT)]
    assert gone(max_images=2, image_budget_bytes=1500) == [
        (oldest, Why.OVER_LIMIT),
        (middle, Why.OVER_LIMIT),
        (newest, Why.OVER_BUDGET),
    ]
    assert gone(image_budget_bytes=4000) == []
    assert gone(room_for=1) == [(version.id, Why.OVER_LIMIT)]

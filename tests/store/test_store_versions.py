"""Versions of a snapshot: numbers, weights, pins, statistics, and rebuilds that failed."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.store.things import NOON, SHAPE, a_container, an_image, stored_image, stored_snapshot

from warmboot.model.errors import Conflict, NotFound
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import (
    DEFAULT_WEIGHT,
    RECENT_BOOTS,
    BootStats,
    BuildCause,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootAttempt, FallbackReason
from warmboot.store import Store
from warmboot.store.address import parse_url
from warmboot.store.migrate import migrate


async def test_versions_count_up_per_image_and_shape(store: Store) -> None:
    image, other = await stored_image(store), await stored_image(store)

    async def number(image_id: UUID, shape: Shape) -> int:
        return (await stored_snapshot(store, runtime_image_id=image_id, shape=shape)).version

    small, big = SHAPE, Shape(4, 4096)
    order = [(image, small), (image, small), (image, big), (other, small), (image, small)]
    assert [await number(i.id, s) for i, s in order] == [1, 2, 1, 1, 3]


async def test_a_number_is_never_given_twice(store: Store) -> None:
    image = await stored_image(store)
    first = await stored_snapshot(store, runtime_image_id=image.id)
    second = await stored_snapshot(store, runtime_image_id=image.id)
    await store.snapshots.set_state(second.id, SnapshotState.DELETED)
    await store.snapshots.purge(second.id)
    third = await stored_snapshot(store, runtime_image_id=image.id)
    assert (first.version, second.version, third.version) == (1, 2, 3)


async def test_versions_added_at_the_same_moment_get_numbers_of_their_own(store: Store) -> None:
    image = await stored_image(store)
    made = await asyncio.gather(
        *(stored_snapshot(store, runtime_image_id=image.id) for _ in range(8))
    )
    assert sorted(snapshot.version for snapshot in made) == list(range(1, 9))


async def test_what_is_new_has_the_default_weight_and_no_pin(store: Store) -> None:
    snapshot = await stored_snapshot(store, cause=BuildCause.DEMAND)
    found = await store.snapshots.get(snapshot.id)
    assert found == snapshot
    assert (found.weight, found.pinned, found.cause) == (DEFAULT_WEIGHT, False, BuildCause.DEMAND)
    assert found.boots == BootStats()


async def test_weight_and_pin_are_set_apart(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    assert (await store.snapshots.set_traits(snapshot.id, weight=0.5)).weight == 0.5
    changed = await store.snapshots.set_traits(snapshot.id, pinned=True)
    assert (changed.weight, changed.pinned) == (0.5, True)
    assert await store.snapshots.set_traits(snapshot.id) == changed
    assert (await store.snapshots.set_traits(snapshot.id, pinned=False)).pinned is False


async def test_a_deleted_one_takes_no_weight_and_no_pin(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    await store.snapshots.set_state(snapshot.id, SnapshotState.DELETED)
    for traits in ({"weight": 1.0}, {"pinned": True}):
        with pytest.raises(Conflict, match="deleted"):
            await store.snapshots.set_traits(snapshot.id, **traits)
    with pytest.raises(NotFound):
        await store.snapshots.set_traits(uuid4(), pinned=True)


async def stored_successor(store: Store, old: RuntimeSnapshot) -> RuntimeSnapshot:
    return await stored_snapshot(
        store,
        runtime_image_id=old.runtime_image_id,
        state=SnapshotState.CREATING,
        replaces=old.id,
    )


async def test_a_successor_begins_with_the_weight_and_pin_of_the_old_one(store: Store) -> None:
    old = await stored_snapshot(store)
    await store.snapshots.set_traits(old.id, weight=7.0, pinned=True)
    new = await stored_successor(store, old)
    assert (new.weight, new.pinned) == (7.0, True)
    assert await store.snapshots.get(new.id) == new
    swapped = await store.snapshots.swap(old.id, new.id)
    assert (swapped.weight, swapped.pinned) == (7.0, True)


async def test_what_is_set_on_the_old_one_meanwhile_the_successor_has_too(store: Store) -> None:
    old = await stored_snapshot(store)
    new = await stored_successor(store, old)
    changed = await store.snapshots.set_traits(old.id, weight=7.0, pinned=True)
    assert changed.id == old.id
    swapped = await store.snapshots.swap(old.id, new.id)
    assert (swapped.weight, swapped.pinned) == (7.0, True)


async def test_what_is_set_on_the_successor_outlasts_the_swap(store: Store) -> None:
    old = await stored_snapshot(store)
    new = await stored_successor(store, old)
    await store.snapshots.set_traits(old.id, weight=5.0)
    await store.snapshots.set_traits(new.id, weight=7.0, pinned=True)
    serving = await store.snapshots.get(old.id)
    assert (serving.weight, serving.pinned) == (5.0, False)
    swapped = await store.snapshots.swap(old.id, new.id)
    assert (swapped.weight, swapped.pinned) == (7.0, True)


async def test_only_a_successor_that_is_being_built_follows_the_old_one(store: Store) -> None:
    old = await stored_snapshot(store)
    failed, other = await stored_successor(store, old), await stored_snapshot(store)
    await store.snapshots.set_state(failed.id, SnapshotState.DELETED)
    await store.snapshots.set_traits(old.id, weight=7.0)
    for one in (failed, other):
        assert (await store.snapshots.get(one.id)).weight == DEFAULT_WEIGHT


async def test_a_change_at_the_moment_at_which_a_rebuild_begins_is_not_lost(store: Store) -> None:
    for weight in range(1, 11):
        old = await stored_snapshot(store)
        new, _ = await asyncio.gather(
            stored_successor(store, old), store.snapshots.set_traits(old.id, weight=weight)
        )
        assert (await store.snapshots.get(new.id)).weight == weight


async def test_boots_are_counted_with_their_seconds(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    for boot_s in (0.5, 1.5, 0.7):
        await store.snapshots.record_success(snapshot.id, NOON, boot_s)
    await store.snapshots.record_success(snapshot.id, NOON)
    found = await store.snapshots.get(snapshot.id)
    assert found.success_count == 4
    assert found.boots == BootStats(3, 2.7, (0.5, 1.5, 0.7))
    assert found.boots.median_s == 0.7
    assert found.boots.mean_s == pytest.approx(0.9)


async def test_boots_at_the_same_moment_are_all_counted(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    boots = RECENT_BOOTS + 10
    await asyncio.gather(
        *(store.snapshots.record_success(snapshot.id, NOON, 1.0) for _ in range(boots))
    )
    found = (await store.snapshots.get(snapshot.id)).boots
    assert (found.count, found.total_s, len(found.recent_s)) == (boots, boots, RECENT_BOOTS)


async def test_a_rebuild_that_is_put_off_is_not_counted(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    await store.snapshots.record_rebuild_failure(snapshot.id, NOON)
    later = NOON + timedelta(minutes=5)
    put_off = await store.snapshots.put_off_rebuild(snapshot.id, later, "disk-full")
    assert (put_off.rebuild_failures, put_off.rebuild_not_before) == (1, later)
    assert put_off.rebuild_put_off_by == "disk-full"
    with pytest.raises(NotFound):
        await store.snapshots.put_off_rebuild(uuid4(), later, "disk-full")


async def test_failed_rebuilds_are_counted_until_they_are_forgotten(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    for n in (1, 2):
        later = NOON + timedelta(minutes=n)
        failed = await store.snapshots.record_rebuild_failure(snapshot.id, later)
        assert (failed.rebuild_failures, failed.rebuild_not_before) == (n, later)
    fresh = await store.snapshots.forget_rebuild_failures(snapshot.id)
    assert (fresh.rebuild_failures, fresh.rebuild_not_before) == (0, None)
    with pytest.raises(NotFound):
        await store.snapshots.record_rebuild_failure(uuid4(), NOON)


async def test_a_container_remembers_which_versions_failed(store: Store) -> None:
    attempts = (BootAttempt(uuid4(), 2, FallbackReason.RESTORE_FAILED, "it broke"),)
    container = a_container()
    await store.containers.add(container)
    changed = await store.containers.update(
        container.id, snapshot_version=1, boot_attempts=attempts
    )
    assert (changed.snapshot_version, changed.boot_attempts) == (1, attempts)
    assert await store.containers.get(container.id) == changed


async def test_events_of_a_kind_are_found_by_their_time(store: Store) -> None:
    wanted = [await store.events.append("a.b", str(n), {"n": n}) for n in range(3)]
    await store.events.append("a.c", "other")
    assert await store.events.of_kind("a.b", NOON) == tuple(wanted)
    later = await store.events.of_kind("a.b", wanted[0].at)
    assert later == tuple(event for event in wanted if event.at > wanted[0].at)
    assert await store.events.of_kind("a.b", wanted[-1].at) == ()
    assert await store.events.of_kind("none", NOON) == ()


async def test_what_an_older_version_stored_is_numbered(database_url: str) -> None:
    """Three of one shape and one of another, as revision 0002 has them."""
    address = parse_url(database_url)
    await migrate(address, "0002")
    image = an_image()
    rows: list[dict[str, Any]] = [
        {"id": uuid4(), "vcpus": vcpus, "at": NOON + timedelta(hours=hour)}
        for vcpus, hour in ((2, 3), (2, 1), (4, 2), (2, 2))
    ]
    await _insert_old(database_url, image, rows)
    async with Store.open(database_url) as store:
        found = [await store.snapshots.get(row["id"]) for row in rows]
        assert [snapshot.version for snapshot in found] == [3, 1, 1, 2]
        assert {snapshot.weight for snapshot in found} == {DEFAULT_WEIGHT}
        assert {snapshot.pinned for snapshot in found} == {False}
        assert {snapshot.boots for snapshot in found} == {BootStats()}
        new = await stored_snapshot(store, runtime_image_id=image.id, shape=Shape(2, 1024))
        assert new.version == 4


async def _insert_old(url: str, image: RuntimeImage, rows: list[dict[str, Any]]) -> None:
    engine = create_async_engine(parse_url(url))
    postgres = engine.dialect.name == "postgresql"
    manifest = {
        "digest": image.digest,
        "files": {},
        "cmdline": "quiet",
        "agent_version": "1",
        "labels": {},
    }

    def key(value: UUID) -> UUID | str:
        return value if postgres else value.hex

    def moment(value: datetime) -> datetime | str:
        return value if postgres else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")

    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO images (id, name, digest, path, manifest, created_at)"
                " VALUES (:id, :name, :digest, '/srv/fc/x', :manifest, :at)"
            ),
            {
                "id": key(image.id),
                "name": image.name,
                "digest": image.digest,
                "manifest": json.dumps(manifest),
                "at": moment(NOON),
            },
        )
        for row in rows:
            await connection.execute(
                text(
                    "INSERT INTO runtime_snapshots (id, runtime_image_id, snapshot_path, state,"
                    " hypervisor, fc_version, vcpus, memory_mib, created_at, updated_at, metadata)"
                    " VALUES (:id, :image, '/srv/fc/s', 'ready', 'qemu', '10.0.2', :vcpus, 1024,"
                    " :at, :at, '{}')"
                ),
                {
                    "id": key(row["id"]),
                    "image": key(image.id),
                    "vcpus": row["vcpus"],
                    "at": moment(row["at"]),
                },
            )
    await engine.dispose()

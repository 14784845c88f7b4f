"""Runtime snapshots and their leases in the store."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from tests.store.things import (
    NOON,
    a_snapshot,
    a_vm,
    stored_container,
    stored_image,
    stored_snapshot,
)

from warmboot.model.errors import Conflict, IllegalTransition, InUse, NotFound
from warmboot.model.runtime_snapshot import SNAPSHOT_TRANSITIONS, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.store import Store

CREATING, READY, UNHEALTHY, DELETED = SnapshotState


async def test_a_snapshot_comes_back_as_it_was(store: Store) -> None:
    snapshot = await stored_snapshot(
        store, last_used_at=NOON, error={"code": "x", "details": "tail\0"}, success_count=3
    )
    found = await store.snapshots.get(snapshot.id)
    assert found.error == {"code": "x", "details": "tail\ufffd"}
    assert found.metadata == snapshot.metadata
    assert (found.shape, found.created_at, found.success_count) == (snapshot.shape, NOON, 3)
    again = await stored_snapshot(store)
    assert await store.snapshots.get(again.id) == again


async def test_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.snapshots.get(uuid4())
    with pytest.raises(NotFound):
        await store.snapshots.add(a_snapshot(uuid4()))
    with pytest.raises(NotFound):
        await store.snapshots.set_state(uuid4(), READY)
    with pytest.raises(NotFound):
        await store.snapshots.record_success(uuid4(), NOON)
    with pytest.raises(NotFound):
        await store.snapshots.update_metadata(uuid4(), {})
    with pytest.raises(NotFound):
        await store.snapshots.lease(uuid4(), "vm-1")


async def test_listing_shows_the_newest_first_and_deleted_ones_on_request(store: Store) -> None:
    old = await stored_snapshot(store)
    new = await stored_snapshot(store, created_at=NOON + timedelta(days=1))
    gone = await stored_snapshot(store, state=DELETED)
    assert [found.id for found in await store.snapshots.list()] == [new.id, old.id]
    everything = await store.snapshots.list(include_deleted=True)
    assert {found.id for found in everything} == {new.id, old.id, gone.id}


async def test_snapshots_are_found_by_image_and_shape(store: Store) -> None:
    image = await stored_image(store)
    small = await stored_snapshot(store, runtime_image_id=image.id, shape=Shape(1, 512))
    big = await stored_snapshot(
        store, runtime_image_id=image.id, shape=Shape(4, 4096), created_at=NOON + timedelta(hours=1)
    )
    await stored_snapshot(store, runtime_image_id=image.id, state=DELETED)
    await stored_snapshot(store)
    assert await store.snapshots.for_image(image.id) == (big, small)
    assert await store.snapshots.for_image(image.id, Shape(1, 512)) == (small,)
    assert await store.snapshots.for_image(image.id, Shape(1, 514)) == ()


@pytest.mark.parametrize("old", SnapshotState)
@pytest.mark.parametrize("new", SnapshotState)
async def test_states_change_as_the_model_allows(
    store: Store, old: SnapshotState, new: SnapshotState
) -> None:
    snapshot = await stored_snapshot(store, state=old)
    if SNAPSHOT_TRANSITIONS.allows(old, new):
        moved = await store.snapshots.set_state(snapshot.id, new, error={"code": "why"})
        assert (moved.state, moved.error) == (new, {"code": "why"})
    else:
        with pytest.raises(IllegalTransition):
            await store.snapshots.set_state(snapshot.id, new, error={"code": "why"})
        moved = snapshot
    assert await store.snapshots.get(snapshot.id) == moved


async def test_of_two_who_change_the_state_at_once_one_wins(store: Store) -> None:
    for _ in range(10):
        snapshot = await stored_snapshot(store, state=CREATING)
        outcomes = await asyncio.gather(
            *(store.snapshots.set_state(snapshot.id, DELETED) for _ in range(4)),
            return_exceptions=True,
        )
        lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(lost) == 3
        assert all(isinstance(outcome, IllegalTransition) for outcome in lost)


async def test_identity_cannot_be_changed(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    with pytest.raises(TypeError, match="runtime_image_id"):
        await store.snapshots.set_state(snapshot.id, UNHEALTHY, runtime_image_id=uuid4())


async def test_a_success_ends_a_row_of_failures(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    later = NOON + timedelta(minutes=1)
    await store.snapshots.record_failure(snapshot.id, {"code": "restore-failed"}, NOON)
    failed = await store.snapshots.record_failure(snapshot.id, {"code": "vm-gone"}, later)
    assert (failed.failure_count, failed.consecutive_failures) == (2, 2)
    assert (failed.error, failed.last_used_at) == ({"code": "vm-gone"}, later)
    well = await store.snapshots.record_success(snapshot.id, later)
    assert (well.success_count, well.failure_count, well.consecutive_failures) == (1, 2, 0)


async def test_no_count_is_lost_when_many_count_at_once(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    await asyncio.gather(
        *(store.snapshots.record_failure(snapshot.id, {}, NOON) for _ in range(20)),
        *(store.snapshots.update_metadata(snapshot.id, {f"key-{n}": n}) for n in range(20)),
    )
    found = await store.snapshots.get(snapshot.id)
    assert found.failure_count == found.consecutive_failures == 20
    assert found.metadata == {**snapshot.metadata, **{f"key-{n}": n for n in range(20)}}


async def test_a_swap_puts_the_new_one_in_the_place_of_the_old(store: Store) -> None:
    old = await stored_snapshot(store, state=UNHEALTHY)
    new = await stored_snapshot(
        store, runtime_image_id=old.runtime_image_id, state=CREATING, replaces=old.id
    )
    swapped = await store.snapshots.swap(old.id, new.id)
    assert (swapped.id, swapped.state) == (new.id, READY)
    assert (await store.snapshots.get(old.id)).state is DELETED


async def test_a_swap_happens_as_a_whole_or_not_at_all(store: Store) -> None:
    gone = await stored_snapshot(store, state=DELETED)
    new = await stored_snapshot(store, state=CREATING)
    with pytest.raises(IllegalTransition):
        await store.snapshots.swap(gone.id, new.id)
    assert (await store.snapshots.get(new.id)).state is CREATING
    with pytest.raises(NotFound):
        await store.snapshots.swap(uuid4(), new.id)
    assert (await store.snapshots.get(new.id)).state is CREATING


async def test_readers_never_see_half_a_swap(store: Store) -> None:
    image = await stored_image(store)
    old = await stored_snapshot(store, runtime_image_id=image.id)
    for _ in range(10):
        new = await stored_snapshot(store, runtime_image_id=image.id, state=CREATING)
        swap = asyncio.create_task(store.snapshots.swap(old.id, new.id))
        while not swap.done():
            seen = await store.snapshots.for_image(image.id)
            assert [found.state for found in seen].count(READY) == 1
        await swap
        old = new


async def test_a_lease_is_held_until_released(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    await store.snapshots.lease(snapshot.id, "vm-1")
    await store.snapshots.lease(snapshot.id, "vm-1")
    await store.snapshots.lease(snapshot.id, "vm-2")
    assert await store.snapshots.leases(snapshot.id) == ("vm-1", "vm-2")
    assert await store.snapshots.release("vm-1") == 1
    assert await store.snapshots.release("vm-1") == 0
    assert await store.snapshots.leases(snapshot.id) == ("vm-2",)


@pytest.mark.parametrize("state", [CREATING, DELETED])
async def test_what_cannot_be_used_cannot_be_leased(store: Store, state: SnapshotState) -> None:
    snapshot = await stored_snapshot(store, state=state)
    with pytest.raises(Conflict, match=state.value):
        await store.snapshots.lease(snapshot.id, "vm-1")
    assert await store.snapshots.leases(snapshot.id) == ()


async def test_a_leased_snapshot_is_deleted_but_not_purged(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    await store.snapshots.lease(snapshot.id, "vm-1")
    await store.snapshots.set_state(snapshot.id, DELETED)
    with pytest.raises(InUse):
        await store.snapshots.purge(snapshot.id)
    await store.snapshots.release("vm-1")
    await store.snapshots.purge(snapshot.id)
    await store.snapshots.purge(snapshot.id)
    with pytest.raises(NotFound):
        await store.snapshots.get(snapshot.id)


async def test_only_a_deleted_snapshot_is_purged(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    with pytest.raises(IllegalTransition):
        await store.snapshots.purge(snapshot.id)
    assert await store.snapshots.get(snapshot.id)


async def test_a_purged_snapshot_is_forgotten_by_those_who_came_from_it(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    successor = await stored_snapshot(store, replaces=snapshot.id)
    container = await stored_container(store, runtime_snapshot_id=snapshot.id)
    vm = a_vm(snapshot_id=snapshot.id)
    await store.vms.add(vm)
    await store.snapshots.set_state(snapshot.id, DELETED)
    await store.snapshots.purge(snapshot.id)
    assert (await store.snapshots.get(successor.id)).replaces is None
    assert (await store.containers.get(container.id)).runtime_snapshot_id is None
    assert (await store.vms.get(vm.id)).snapshot_id is None


async def test_a_lease_never_slips_in_behind_a_delete(store: Store) -> None:
    """A collector that sees no lease on a deleted snapshot may remove its files."""

    async def collect() -> bool:
        await store.snapshots.set_state(snapshot.id, DELETED)
        return not await store.snapshots.leases(snapshot.id)

    for _ in range(20):
        snapshot = await stored_snapshot(store)
        leased, free = await asyncio.gather(
            store.snapshots.lease(snapshot.id, "vm-1"),
            collect(),
            return_exceptions=True,
        )
        assert isinstance(leased, Conflict) == free
        assert bool(await store.snapshots.leases(snapshot.id)) == (not free)


async def test_a_lease_that_comes_during_a_delete_is_refused(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    deleted = asyncio.Event()

    async def lease() -> None:
        await deleted.wait()
        await store.snapshots.lease(snapshot.id, "vm-1")

    leasing = asyncio.create_task(lease())
    async with store.transaction():
        await store.snapshots.set_state(snapshot.id, DELETED)
        deleted.set()
        await asyncio.wait([leasing], timeout=0.2)
    with pytest.raises(Conflict, match="deleted"):
        await leasing


async def test_a_delete_that_comes_during_a_lease_sees_it(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    leased = asyncio.Event()

    async def collect() -> tuple[str, ...]:
        await leased.wait()
        await store.snapshots.set_state(snapshot.id, DELETED)
        return await store.snapshots.leases(snapshot.id)

    collecting = asyncio.create_task(collect())
    async with store.transaction():
        await store.snapshots.lease(snapshot.id, "vm-1")
        leased.set()
        await asyncio.wait([collecting], timeout=0.2)
    assert await collecting == ("vm-1",)

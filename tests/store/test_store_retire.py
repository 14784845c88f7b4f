"""Retiring a snapshot: only what nothing holds, whatever happens at the same moment."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.store.things import NOON, stored_snapshot

from warmboot.model.errors import Conflict
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.store import Store

CREATING, READY, UNHEALTHY, DELETED = SnapshotState


@pytest.mark.parametrize("state", [READY, UNHEALTHY])
async def test_what_nothing_holds_is_retired(store: Store, state: SnapshotState) -> None:
    snapshot = await stored_snapshot(store, state=state)
    assert await store.snapshots.retire(snapshot)
    assert (await store.snapshots.get(snapshot.id)).state is DELETED
    assert not await store.snapshots.retire(snapshot), "once is enough"


@pytest.mark.parametrize("state", [CREATING, DELETED])
async def test_what_is_being_built_or_deleted_is_not(store: Store, state: SnapshotState) -> None:
    assert not await store.snapshots.retire(await stored_snapshot(store, state=state))


async def test_a_lease_a_pin_or_a_successor_hold_it(store: Store) -> None:
    leased, pinned, old = [await stored_snapshot(store) for _ in range(3)]
    await store.snapshots.lease(leased.id, "vm-1")
    await store.snapshots.set_traits(pinned.id, pinned=True)
    new = await stored_snapshot(
        store, runtime_image_id=old.runtime_image_id, state=CREATING, replaces=old.id
    )
    for held in (leased, pinned, old):
        assert not await store.snapshots.retire(held)
    await store.snapshots.release("vm-1")
    await store.snapshots.set_traits(pinned.id, pinned=False)
    await store.snapshots.set_state(new.id, UNHEALTHY)
    for free in (leased, pinned, old):
        assert await store.snapshots.retire(free)


async def test_one_that_was_used_since_it_was_looked_at_stays(store: Store) -> None:
    seen = await stored_snapshot(store)
    await store.snapshots.record_success(seen.id, NOON + timedelta(hours=1))
    assert not await store.snapshots.retire(seen)
    assert await store.snapshots.retire(await store.snapshots.get(seen.id))


async def test_a_lease_and_a_retirement_at_once_never_both_succeed(store: Store) -> None:
    for _ in range(25):
        snapshot = await stored_snapshot(store)
        leased, retired = await asyncio.gather(
            store.snapshots.lease(snapshot.id, "vm-1"),
            store.snapshots.retire(snapshot),
            return_exceptions=True,
        )
        assert isinstance(leased, Conflict) == retired, (leased, retired)
        assert await store.snapshots.release("vm-1") == (0 if retired else 1)

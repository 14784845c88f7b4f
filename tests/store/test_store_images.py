"""Runtime images in the store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from tests.store.things import (
    NOON,
    a_snapshot,
    an_image,
    stored_container,
    stored_image,
    stored_snapshot,
)

from warmboot.model.errors import Conflict, InUse, NameTaken, NotFound, WarmbootError
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.store import Store


async def test_an_image_comes_back_as_it_was(store: Store) -> None:
    image = await stored_image(store)
    assert await store.images.get(image.id) == image
    assert await store.images.by_digest(image.digest) == image
    assert await store.images.by_name(image.name) == image


async def test_what_is_not_there_is_not_found(store: Store) -> None:
    assert await store.images.by_name("nobody") is None
    assert await store.images.by_digest("sha256:0") is None
    assert await store.images.by_name("no\0body") is None
    with pytest.raises(NotFound, match="runtime ls"):
        await store.images.get(uuid4())
    with pytest.raises(NotFound):
        await store.images.delete(uuid4())


async def test_images_are_listed_oldest_first(store: Store) -> None:
    newer = await stored_image(store, created_at=NOON + timedelta(hours=1))
    older = await stored_image(store)
    assert await store.images.list() == (older, newer)


async def test_a_name_is_taken_once(store: Store) -> None:
    image = await stored_image(store)
    with pytest.raises(NameTaken, match=image.name):
        await store.images.add(an_image(name=image.name))


async def test_the_same_files_are_registered_once(store: Store) -> None:
    image = await stored_image(store)
    with pytest.raises(Conflict) as caught:
        await store.images.add(an_image(digest=image.digest))
    assert not isinstance(caught.value, NameTaken)


async def test_an_image_gets_new_files_and_stays_the_same_image(store: Store) -> None:
    old = await stored_image(store)
    snapshot = await stored_snapshot(store, runtime_image_id=old.id)
    other = an_image()
    renewed = await store.images.renew(old.id, old.digest, other.digest, other.path, other.manifest)
    assert renewed == replace(old, digest=other.digest, path=other.path, manifest=other.manifest)
    assert await store.images.list() == (renewed,)
    assert await store.images.by_digest(old.digest) is None
    assert (await store.snapshots.for_image(old.id))[0].id == snapshot.id


async def test_only_what_an_image_had_is_exchanged(store: Store) -> None:
    image, other = await stored_image(store), an_image()
    new = other.digest, other.path, other.manifest
    with pytest.raises(Conflict, match="at the same time"):
        await store.images.renew(image.id, "sha256:of-before", *new)
    with pytest.raises(NotFound):
        await store.images.renew(uuid4(), image.digest, *new)
    assert await store.images.list() == (image,)


async def test_two_images_never_have_the_same_files(store: Store) -> None:
    image, other = await stored_image(store), await stored_image(store)
    with pytest.raises(Conflict) as caught:
        await store.images.renew(image.id, image.digest, other.digest, other.path, other.manifest)
    assert "runtime rm" in caught.value.resolution
    assert await store.images.get(image.id) == image


async def test_a_deleted_image_gives_its_name_free(store: Store) -> None:
    image = await stored_image(store)
    await store.images.delete(image.id)
    assert await store.images.list() == ()
    await stored_image(store, name=image.name, digest=image.digest)


async def test_an_image_with_a_container_is_in_use(store: Store) -> None:
    image = await stored_image(store)
    container = await stored_container(store, runtime_image_id=image.id)
    with pytest.raises(InUse):
        await store.images.delete(image.id)
    await store.containers.remove(container.id)
    await store.images.delete(image.id)


@pytest.mark.parametrize(
    "state", [SnapshotState.CREATING, SnapshotState.READY, SnapshotState.UNHEALTHY]
)
async def test_an_image_with_a_live_snapshot_is_in_use(store: Store, state: SnapshotState) -> None:
    snapshot = await stored_snapshot(store, state=state)
    with pytest.raises(InUse):
        await store.images.delete(snapshot.runtime_image_id)
    assert await store.images.get(snapshot.runtime_image_id)


async def test_a_snapshot_that_waits_to_be_purged_does_not_hold_its_image(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    image = await store.images.get(snapshot.runtime_image_id)
    await store.snapshots.set_state(snapshot.id, SnapshotState.DELETED)
    await store.images.delete(image.id)

    with pytest.raises(NotFound):
        await store.images.get(image.id)
    with pytest.raises(NotFound):
        await store.images.delete(image.id)
    with pytest.raises(NotFound):
        await store.snapshots.add(a_snapshot(image.id))
    await store.images.add(an_image(name=image.name, digest=image.digest))
    assert (await store.snapshots.get(snapshot.id)).runtime_image_id == image.id

    await store.snapshots.purge(snapshot.id)
    # Its row is gone for good: the very same id can be registered again.
    await store.images.add(an_image(id=image.id))


async def test_deleting_races_with_a_new_snapshot_and_one_wins(store: Store) -> None:
    for _ in range(10):
        image = await stored_image(store)
        snapshot = a_snapshot(image.id)
        outcomes = await asyncio.gather(
            store.images.delete(image.id), store.snapshots.add(snapshot), return_exceptions=True
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert len(failures) == 1
        assert isinstance(failures[0], InUse | NotFound)
        there = {found.id for found in await store.images.list()}
        assert (image.id in there) == isinstance(failures[0], InUse)
        assert isinstance(failures[0], WarmbootError)


async def test_a_snapshot_that_comes_while_its_image_vanishes_is_refused(store: Store) -> None:
    waiting = await stored_snapshot(store, state=SnapshotState.DELETED)
    vanished = asyncio.Event()

    async def add() -> None:
        await vanished.wait()
        await store.snapshots.add(a_snapshot(waiting.runtime_image_id))

    adding = asyncio.create_task(add())
    async with store.transaction():
        await store.images.delete(waiting.runtime_image_id)
        vanished.set()
        await asyncio.wait([adding], timeout=0.2)
    with pytest.raises(NotFound):
        await adding

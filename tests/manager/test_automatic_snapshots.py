"""Snapshots that are built unasked: of a new image, and of a shape that is asked for often."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.managers import IMAGE_NAME, Lab, Manager, image_folder
from tests.support.rebuilds import event, ready

from warmboot.manager.protocols import Registered
from warmboot.model.runtime_snapshot import (
    BuildCause,
    RuntimeSnapshot,
)
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootMethod, FallbackReason

ODD = Shape(1, 300)


async def register(manager: Manager, **options: Any) -> Registered:
    path = await image_folder()
    return await manager.services.images.register(name=IMAGE_NAME, path=path, **options)


# -- when an image is registered -------------------------------------------------------------------


async def test_registering_an_image_builds_its_snapshot(place: Lab) -> None:
    async with place.manager(auto_snapshot=True) as manager:
        registered = await register(manager)
        assert registered.begun
        snapshot = await ready(manager)
        assert snapshot.id == registered.snapshot_id
        assert (snapshot.cause, snapshot.version) == (BuildCause.REGISTERED, 1)
        assert (await manager.run()).boot_method is BootMethod.WARM


async def test_registering_again_does_nothing_twice(place: Lab) -> None:
    async with place.manager(auto_snapshot=True) as manager:
        place.set(docker_s=0.3)
        first, *others = await asyncio.gather(*(register(manager) for _ in range(4)))
        assert {one.snapshot_id for one in others} == {first.snapshot_id}
        assert [one.begun for one in (first, *others)].count(True) >= 1
        await ready(manager)
        again = await register(manager)
        assert (again.begun, again.snapshot_id) == (False, first.snapshot_id)
        assert len(await manager.snapshots.list()) == 1


async def test_building_can_be_turned_off_for_one_and_for_all(place: Lab) -> None:
    async with place.manager(auto_snapshot=True) as manager:
        registered = await register(manager, build_snapshot=False)
        assert (registered.snapshot_id, registered.begun) == (None, False)
        assert await manager.snapshots.list() == ()
    async with place.manager(auto_snapshot=False) as manager:
        assert (await register(manager)).snapshot_id is None
        assert (await register(manager, build_snapshot=True)).begun
        await ready(manager)


async def test_an_image_is_registered_even_where_no_snapshot_can_be_begun(place: Lab) -> None:
    async with place.manager(auto_snapshot=True, max_runtime_snapshots=1) as manager:
        await register(manager, build_snapshot=False)
        (image,) = await manager.services.images.list()
        await manager.snapshots.create(image.id, ODD)
        registered = await register(manager)
        assert registered.image == image
        assert registered.snapshot_id is None
        assert "there are 1 runtime snapshots already" in registered.note


async def test_to_create_one_that_is_being_made_is_to_wait_for_it(place: Lab) -> None:
    async with place.manager(auto_snapshot=True) as manager:
        place.set(docker_s=0.3)
        registered = await register(manager)
        asked = [await manager.snapshots.create(registered.image.id, None) for _ in range(2)]
        assert asked == [registered.snapshot_id] * 2
        await ready(manager)
        await manager.run()
        another = await manager.snapshots.create(registered.image.id, None)
        assert (await ready(manager, version=2)).id == another


async def test_to_create_one_after_a_registration_never_builds_two(place: Lab) -> None:
    async with place.manager(auto_snapshot=True) as manager:
        registered = await register(manager)
        await ready(manager)
        assert await manager.snapshots.create(registered.image.id, None) == registered.snapshot_id
        assert len(await manager.snapshots.list()) == 1
        other = await manager.snapshots.create(registered.image.id, ODD)
        assert other != registered.snapshot_id
        asked = await manager.snapshots.create(registered.image.id, ODD)
        assert asked == other
        await ready(manager, shape=ODD)
        assert await manager.snapshots.create(registered.image.id, ODD) != other  # asked for anew


# -- a shape that is asked for often ---------------------------------------------------------------


async def test_a_shape_that_is_asked_for_often_gets_a_snapshot(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    for number in range(3):
        container = await manager.run(f"c{number}", shape=ODD)
        assert container.fallback_reason is FallbackReason.SHAPE_MISMATCH
    snapshot = await ready(manager, shape=ODD)
    assert snapshot.cause is BuildCause.DEMAND
    assert (await manager.run("warm", shape=ODD)).runtime_snapshot_id == snapshot.id
    told = await event(manager, "runtime-snapshot.wanted")
    assert (told.data["asked"], told.data["build"]) == (3, True)


async def test_demand_outlasts_the_manager(place: Lab) -> None:
    async with place.manager() as manager:
        await manager.snapshot()
        for number in range(2):
            await manager.run(f"c{number}", shape=ODD)
    async with place.manager() as manager:
        await manager.run("c2", shape=ODD)
        await ready(manager, shape=ODD)


async def test_demand_does_not_go_beyond_the_limit(place: Lab) -> None:
    async with place.manager(max_runtime_snapshots=1, shape_demand_boots=1) as manager:
        await manager.snapshot()
        await manager.run("one", shape=ODD)
        told = await event(manager, "runtime-snapshot.wanted")
        assert told.data["build"] is False
        assert "MANAGER_MAX_RUNTIME_SNAPSHOTS is 1" in told.data["why"]
        assert len(await manager.snapshots.list()) == 1


async def test_demand_can_be_turned_off(place: Lab) -> None:
    async with place.manager(shape_demand_boots=0) as manager:
        await manager.snapshot()
        for number in range(4):
            await manager.run(f"c{number}", shape=ODD)
        assert [s.shape for s in await manager.snapshots.list()] != [ODD]
        assert len(await manager.snapshots.list()) == 1

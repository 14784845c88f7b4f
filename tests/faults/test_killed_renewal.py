"""``kill -9`` while the guest agent of an image is renewed, and its snapshot migrated.

As in ``test_killed_manager``: the next manager makes it good. The image is whole at every moment,
with its old files or its new ones, and nothing is taken from under a VM that runs on the old ones.
"""

from __future__ import annotations

import pytest
from tests.faults.test_killed_manager import BUILD, Die, clear, die, names, place, reaper
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, image_folder
from tests.support.rebuilds import ready as until_ready
from tests.support.renewals import OLD, folders, register, renewed, spoken

from warmboot.model.container import ContainerState
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import BuildCause, RuntimeSnapshot
from warmboot.model.tenants.boot import BootMethod, BootPolicy

__all__ = ["die", "place", "reaper"]

RENEW = [
    ("host-images", "renew_agent", "before"),
    ("host-images", "renew_agent", "after"),
    ("images", "renew", "before"),
    ("images", "renew", "after"),
    ("events", "append", "before", "runtime-image.renewed"),
    ("events", "append", "after", "runtime-image.renewed"),
]


async def prepare(place: Lab) -> tuple[RuntimeImage, RuntimeSnapshot]:
    """What the old warmboot has left: a snapshot, and a VM that runs on the image's files."""
    await image_folder(OLD)
    with spoken(OLD):
        async with place.manager() as manager:
            image = await register(manager)
            await manager.run("early", boot=BootPolicy.COLD)
            return image, await manager.snapshot()


async def made_good(manager: Manager, old: RuntimeImage, stale: RuntimeSnapshot) -> None:
    new = await until_ready(manager, cause=BuildCause.MIGRATION)
    await check(manager.running, ready=[stale])
    image = await renewed(manager)
    assert image.id == old.id
    assert [s.id for s in await manager.snapshots.list(include_deleted=True)] == [new.id]
    assert (await manager.run("proof")).boot_method is BootMethod.WARM
    await manager.services.garbage.collect()
    assert folders(manager.lab) == {old.path, image.path}, "a VM still runs on the old one"
    assert (await manager.containers.get("early")).state is ContainerState.RUNNING
    await clear(manager, [new])
    await manager.services.garbage.collect()
    assert folders(manager.lab) == {image.path}


@pytest.mark.parametrize("at", RENEW, ids=names)
@pytest.mark.parametrize("work", ["cold", "migrate"])
async def test_killed_while_it_renews(place: Lab, die: Die, work: str, at: tuple[str, ...]) -> None:
    """Whoever needed it: a container that somebody waits for, or the migration by itself."""
    old, stale = await prepare(place)
    await die(work, at)
    async with place.manager() as manager:
        await made_good(manager, old, stale)


@pytest.mark.parametrize("at", BUILD, ids=names)
async def test_killed_while_it_migrates(place: Lab, die: Die, at: tuple[str, ...]) -> None:
    old, stale = await prepare(place)
    await die("migrate", at)
    async with place.manager() as manager:
        await made_good(manager, old, stale)


@pytest.mark.parametrize("at", RENEW, ids=names)
async def test_killed_twice_while_it_renews(place: Lab, die: Die, at: tuple[str, ...]) -> None:
    """The second one has the folder of the first before it, which is nobody's."""
    old, stale = await prepare(place)
    await die("migrate", ("images", "renew", "before"))
    await die("migrate", at)
    async with place.manager() as manager:
        await made_good(manager, old, stale)

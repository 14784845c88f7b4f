"""What becomes of the files of an image whose guest agent is renewed."""

from __future__ import annotations

from uuid import uuid4

from tests.support.invariants import check
from tests.support.managers import Lab
from tests.support.rebuilds import ready
from tests.support.renewals import (
    OLD,
    before_the_upgrade,
    folders,
    register,
    renewed,
    spoken,
)

from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.runtime_snapshot import BuildCause
from warmboot.model.tenants.boot import BootPolicy, FallbackReason


async def test_the_old_folder_stays_as_long_as_a_vm_needs_it(place: Lab) -> None:
    with spoken(OLD):
        async with place.manager() as manager:
            image = await register(manager)
            await manager.run("early")
    async with place.manager() as manager:
        await manager.run("late")
        now = await renewed(manager)
        await manager.services.garbage.collect()
        assert folders(place) == {image.path, now.path}
        await check(manager.running)
        await manager.containers.delete("early", force=True)
        dry = await manager.services.garbage.collect(dry_run=True)
        assert [one.path for one in dry.removed] == [image.path]
        await manager.services.garbage.collect()
        assert folders(place) == {now.path}
        await check(manager.running)
        await manager.containers.delete("late", force=True)


async def test_a_restart_does_not_take_the_old_folder_from_under_a_vm(place: Lab) -> None:
    with spoken(OLD):
        async with place.manager() as manager:
            image = await register(manager)
            await manager.run("early")
    for _ in range(2):
        async with place.manager() as manager:
            await manager.run(f"c{uuid4().hex[:4]}", boot=BootPolicy.COLD)
            assert image.path in folders(place)
            await check(manager.running)


async def test_a_container_whose_vm_died_starts_on_its_disk_with_the_new_agent(
    place: Lab,
) -> None:
    with spoken(OLD):
        async with place.manager() as manager:
            await register(manager)
            early = await manager.run("early")
    place.kill_everything()
    disk = place.storage / "vms" / str(early.vm_id) / "disk.ext4"
    disk.write_bytes(b"precious")
    async with place.manager() as manager:
        assert (await manager.containers.get("early")).state is ContainerState.FAILED
        await manager.containers.start("early")
        again = await manager.wait("early", Until.RUNNING)
        assert (again.state, again.fallback_reason) == (
            ContainerState.RUNNING,
            FallbackReason.KEEPS_DISK,
        )
        assert disk.read_bytes() == b"precious"
        image = await renewed(manager)
        (record,) = await manager.store.vms.list()
        assert image.rootfs in record.spec.files
        await check(manager.running)


async def test_the_files_that_were_registered_are_known_afterwards(place: Lab) -> None:
    async with place.manager() as manager:
        await register(manager)
        await manager.run(boot=BootPolicy.COLD)
        image = await renewed(manager)
        await manager.services.garbage.collect()
        assert await register(manager) == image
        assert folders(place) == {image.path}
        with spoken(OLD):
            assert await register(manager) == image


async def test_to_register_again_takes_nothing_from_under_a_vm(place: Lab) -> None:
    with spoken(OLD):
        async with place.manager() as manager:
            image = await register(manager)
            await manager.run("early")
    async with place.manager() as manager:
        await manager.run("late")
        await register(manager)
        assert image.path in folders(place)
        await check(manager.running)


async def test_an_image_goes_with_all_its_folders(place: Lab) -> None:
    image, _ = await before_the_upgrade(place)
    async with place.manager() as manager:
        new = await ready(manager, cause=BuildCause.MIGRATION)
        await manager.snapshots.delete(new.id)
        await manager.services.images.delete(image.id)
        await manager.services.garbage.collect()
        assert folders(place) == set()

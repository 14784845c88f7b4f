"""An image of another warmboot: its guest agent is renewed, and its snapshots are migrated."""

from __future__ import annotations

import asyncio

from tests.support.engines import create, docker, engines_of
from tests.support.invariants import check
from tests.support.managers import Lab, vmm_pids
from tests.support.rebuilds import event, ready
from tests.support.renewals import (
    OLD,
    before_the_upgrade,
    register,
    renewals,
    renewed,
    spoken,
)

from warmboot.guest import AGENT_VERSION
from warmboot.manager.protocols import EngineUntil
from warmboot.model.container import ContainerState
from warmboot.model.runtime_snapshot import BuildCause, SnapshotState
from warmboot.model.snapshot_fit import GUEST_AGENT
from warmboot.model.tenants.boot import BootMethod, BootPolicy, FallbackReason
from warmboot.model.tenants.engine import EngineState


async def test_after_an_upgrade_the_agent_is_renewed_and_the_snapshot_migrated(
    place: Lab,
) -> None:
    image, old = await before_the_upgrade(place)
    async with place.manager() as manager:
        told = await event(manager, "runtime-snapshot.unusable", old.id)
        assert told.data["requirement"] == GUEST_AGENT
        new = await ready(manager, cause=BuildCause.MIGRATION)
        now = await renewed(manager)
        assert (now.id, now.created_at) == (image.id, image.created_at)
        assert (new.version, new.weight, new.pinned) == (2, 7, True)
        assert new.metadata["agent_version"] == AGENT_VERSION
        assert (await manager.snapshots.fit(new)).usable
        booted = await manager.run()
        assert (booted.boot_method, booted.runtime_snapshot_id) == (BootMethod.WARM, new.id)
        told = await event(manager, "runtime-image.renewed", image.id)
        assert (told.data["was"], told.data["agent"]) == (OLD, AGENT_VERSION)
        assert told.data["digest"] == now.digest
        await check(manager.running)
        assert [s.id for s in await manager.snapshots.list(include_deleted=True)] == [new.id]
        assert await renewals(manager) == ["runtime-image.renewed"]


async def test_an_old_image_gets_its_snapshot_when_it_is_registered(place: Lab) -> None:
    async with place.manager(auto_snapshot=True) as manager:
        await register(manager)
        snapshot = await ready(manager, cause=BuildCause.REGISTERED)
        assert snapshot.metadata["agent_version"] == AGENT_VERSION
        await renewed(manager)
        assert (await manager.run()).boot_method is BootMethod.WARM
        await check(manager.running)


async def test_a_cold_boot_does_not_wait_for_a_snapshot(place: Lab) -> None:
    async with place.manager() as manager:
        await register(manager)
        assert await renewals(manager) == []
        booted = await manager.run()
        assert (booted.state, booted.boot_method) == (ContainerState.RUNNING, BootMethod.COLD)
        image = await renewed(manager)
        assert (await manager.store.vms.list())[0].spec.kernel == image.kernel
        await check(manager.running)


async def test_those_who_come_together_renew_it_once(place: Lab) -> None:
    async with place.manager() as manager:
        image = await register(manager)
        snapshot_id = await manager.snapshots.create(image.id, None)
        containers = await asyncio.gather(
            *(manager.run(f"c{number}", boot=BootPolicy.COLD) for number in range(3))
        )
        assert {c.state for c in containers} == {ContainerState.RUNNING}
        await manager.snapshot_until(snapshot_id, SnapshotState.READY)
        assert await renewals(manager) == ["runtime-image.renewed"]
        await check(manager.running)


async def test_a_protocol_that_is_still_spoken_is_left_alone(place: Lab) -> None:
    image, old = await before_the_upgrade(place)
    with spoken(OLD, AGENT_VERSION):
        async with place.manager() as manager:
            assert (await manager.run()).runtime_snapshot_id == old.id
            await manager.run("cold", boot=BootPolicy.COLD)
            assert await manager.services.images.list() == (image,)
            assert await renewals(manager) == []


async def test_without_rebuilds_by_itself_it_is_the_users_to_order(place: Lab) -> None:
    _, old = await before_the_upgrade(place)
    async with place.manager(auto_rebuild=False) as manager:
        await event(manager, "runtime-snapshot.unusable", old.id)
        booted = await manager.run()
        assert booted.fallback_reason is FallbackReason.HOST_MISMATCH
        assert f"its protocol is {OLD}" in booted.fallback_details
        await renewed(manager)
        new_id = await manager.snapshots.rebuild(old.id)
        await manager.snapshot_until(new_id, SnapshotState.READY)
        assert (await manager.run("warm")).runtime_snapshot_id == new_id
        await check(manager.running)


async def test_an_engine_boots_cold_and_says_why(place: Lab) -> None:
    await before_the_upgrade(place)
    async with place.manager(auto_rebuild=False) as manager:
        engine = await create(manager)
        assert (engine.state, engine.boot_method) == (EngineState.RUNNING, BootMethod.COLD)
        assert engine.fallback_reason is FallbackReason.HOST_MISMATCH
        assert f"its protocol is {OLD}" in engine.fallback_details
        async with docker(engine) as client:
            assert (await client.get("/containers/json?all=1")).json() == []
        await renewed(manager)
        await engines_of(manager).delete("ci", force=True)


async def test_a_stopped_engine_of_the_old_version_starts_on_its_disk_with_the_new_agent(
    place: Lab,
) -> None:
    with spoken(OLD):
        async with place.manager() as manager:
            await register(manager)
            await create(manager)
            await engines_of(manager).stop("ci", 0)
    async with place.manager() as manager:
        await engines_of(manager).start("ci")
        engine = await engines_of(manager).wait("ci", EngineUntil.RUNNING, 60)
        assert (engine.state, engine.boot_method) == (EngineState.RUNNING, BootMethod.COLD)
        assert engine.fallback_reason is FallbackReason.KEEPS_DISK
        async with docker(engine) as client:
            assert (await client.get("/containers/json?all=1")).json() == []
        await renewed(manager)
        await engines_of(manager).delete("ci", force=True)


async def test_a_build_that_the_old_version_had_begun_is_made_with_the_new_agent(
    place: Lab,
) -> None:
    with spoken(OLD):
        async with place.manager() as manager:
            image = await register(manager)
            place.set(docker_s=60)
            snapshot_id = await manager.snapshots.create(image.id, None)
    place.set(docker_s=0)
    async with place.manager() as manager:
        snapshot = await manager.snapshot_until(snapshot_id, SnapshotState.READY)
        assert snapshot.metadata["agent_version"] == AGENT_VERSION
        await check(manager.running)


async def test_no_vm_is_in_the_pool_that_is_not_understood(place: Lab) -> None:
    await before_the_upgrade(place)
    async with place.manager(auto_rebuild=False, pool_min_vms=1, pool_max_vms=1) as manager:
        await manager.run(boot=BootPolicy.COLD)
        await manager.containers.delete("web", force=True)
        assert vmm_pids(place.storage) == []

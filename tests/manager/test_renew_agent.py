"""An image of another warmboot: its guest agent is renewed, and its snapshots are migrated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Never
from uuid import uuid4

import pytest
from tests.support.engines import create, docker, engines_of
from tests.support.invariants import check
from tests.support.managers import IMAGE_NAME, Lab, Manager, image_folder, make_ext4, vmm_pids
from tests.support.rebuilds import event, ready

from warmboot.guest import AGENT_VERSION
from warmboot.host.storage.stored_images import StoredImages
from warmboot.images.files import describe, load_manifest, stored_folder, write_manifest
from warmboot.images.guest_agent import agent_version_in
from warmboot.images.renew import renew_agent
from warmboot.manager.ports import EngineUntil, Until
from warmboot.model import runtime_image
from warmboot.model.container import ContainerState
from warmboot.model.errors import HostError
from warmboot.model.runtime_image import RENEWED_FROM, RuntimeImage, RuntimeImageManifest
from warmboot.model.runtime_snapshot import BuildCause, RuntimeSnapshot, SnapshotState
from warmboot.model.snapshot_fit import GUEST_AGENT
from warmboot.model.tenants.boot import BootMethod, BootPolicy, FallbackReason
from warmboot.model.tenants.engine import EngineState
from warmboot.store.repositories.images import RuntimeImageRepository

OLD = "0"


@contextmanager
def spoken(*protocols: str) -> Iterator[None]:
    """As if this were the warmboot that speaks these."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runtime_image, "GUEST_PROTOCOLS", frozenset(protocols))
        yield


async def register(manager: Manager, path: Path | None = None, **options: Any) -> RuntimeImage:
    path = path or await image_folder(OLD)
    registered = await manager.services.images.register(name=IMAGE_NAME, path=path, **options)
    return registered.image


async def before_the_upgrade(place: Lab) -> tuple[RuntimeImage, RuntimeSnapshot]:
    """An image and its snapshot, of the warmboot that spoke the old protocol."""
    with spoken(OLD):
        async with place.manager() as manager:
            image = await register(manager)
            snapshot = await manager.snapshot()
            assert snapshot.metadata["agent_version"] == OLD
            return image, await manager.snapshots.set_traits(snapshot.id, weight=7, pinned=True)


async def renewed(manager: Manager) -> RuntimeImage:
    """The only image, whose agent was renewed; it is checked that it was."""
    (image,) = await manager.services.images.list()
    old = await image_folder(OLD)
    assert image.name == IMAGE_NAME
    assert image.manifest.agent_version == AGENT_VERSION
    assert image.manifest.labels[RENEWED_FROM] == load_manifest(old).digest
    assert image.path == stored_folder(manager.lab.storage, image.digest)
    assert await agent_version_in(image.rootfs) == AGENT_VERSION
    return image


async def renewals(manager: Manager) -> list[str]:
    events = await manager.services.events.list(limit=1000)
    return [e.kind for e in events if e.kind.startswith("runtime-image.renew")]


async def no_agent(folder: Path) -> Path:
    """An image that says that it has an agent of another protocol, and has none."""
    folder.mkdir()
    for file in (await image_folder()).iterdir():
        if file.name not in ("rootfs.ext4", "manifest.json"):
            (folder / file.name).hardlink_to(file)
    await make_ext4(folder / "rootfs.ext4")
    write_manifest(folder, await describe(folder, "quiet", OLD, {}))
    return folder


# -- the whole way ---------------------------------------------------------------------------------


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
    async with place.manager(auto_rebuild=False, standby_vms=1) as manager:
        await manager.run(boot=BootPolicy.COLD)
        await manager.containers.delete("web", force=True)
        assert vmm_pids(place.storage) == []


# -- the old files ---------------------------------------------------------------------------------


def folders(place: Lab) -> set[Path]:
    return set((place.storage / "runtime-images").iterdir())


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


# -- what cannot be renewed ------------------------------------------------------------------------


async def test_an_image_that_cannot_be_renewed_says_what_to_do(place: Lab, tmp_path: Path) -> None:
    async with place.manager() as manager:
        image = await register(manager, await no_agent(tmp_path / "stranger"))
        container = await manager.run()
        assert container.state is ContainerState.FAILED
        error = container.error or {}
        assert error["code"] == "not-supported"
        assert error["brief"] == "the guest agent of the runtime image default could not be renewed"
        assert f"its protocol is {OLD}, this warmboot speaks {AGENT_VERSION}" in error["details"]
        assert "there is no warmboot guest agent" in error["details"]
        assert "`warmboot runtime build`" in error["resolution"]
        told = await event(manager, "runtime-image.renew-failed", image.id)
        assert told.data["error"] == error
        assert vmm_pids(place.storage) == []
        assert folders(place) == {image.path}
        await check(manager.running)


async def test_it_is_tried_again_as_any_rebuild_and_given_up(place: Lab, tmp_path: Path) -> None:
    with spoken(OLD):
        async with place.manager() as manager:
            await register(manager, await no_agent(tmp_path / "stranger"))
            old = await manager.snapshot()
    async with place.manager(rebuild_pause_s=0.01, rebuild_attempts=2) as manager:
        told = await event(manager, "runtime-snapshot.given-up", old.id)
        assert told.data["failures"] == 2
        assert "`warmboot runtime build`" in told.data["error"]["resolution"]
        assert await renewals(manager) == ["runtime-image.renew-failed"] * 2
        await check(manager.running, ready=[old])


async def test_a_first_snapshot_of_it_is_unhealthy_and_says_so(place: Lab, tmp_path: Path) -> None:
    async with place.manager(auto_snapshot=True, rebuild_pause_s=1000) as manager:
        await register(manager, await no_agent(tmp_path / "stranger"))
        (snapshot,) = await manager.snapshots.list()
        failed = await manager.snapshot_until(snapshot.id, SnapshotState.UNHEALTHY)
        assert "`warmboot runtime build`" in (failed.error or {})["resolution"]


async def test_an_image_that_has_these_very_files_is_in_the_way(place: Lab, tmp_path: Path) -> None:
    """Somebody has put the same together by hand."""
    old = await image_folder(OLD)
    same = await renew_agent(old, tmp_path)
    async with place.manager() as manager:
        image = await register(manager)
        path = stored_folder(tmp_path, same.digest)
        manifest = RuntimeImageManifest(same.digest, same.files, same.cmdline, AGENT_VERSION)
        write_manifest(path, manifest)
        await manager.services.images.register(name="other", path=path)
        container = await manager.run(runtime_image_id=image.id)
        assert (container.error or {})["code"] == "conflict"
        assert "`warmboot runtime rm`" in (container.error or {})["resolution"]
        assert len(folders(place)) == 2, "nothing was taken from the other one"
        await check(manager.running)


@pytest.mark.parametrize(
    "error", [HostError("made to fail"), OSError(28, "No space left")], ids=repr
)
@pytest.mark.parametrize(
    ("part", "method"), [(StoredImages, "renew_agent"), (RuntimeImageRepository, "renew")]
)
async def test_a_renewal_that_fails_anywhere_leaves_nothing(
    place: Lab, part: type, method: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> Never:
        raise error

    async with place.manager() as manager:
        image = await register(manager)
        with monkeypatch.context() as patch:
            patch.setattr(part, method, fail)
            container = await manager.run()
        expected = "disk-full" if isinstance(error, OSError) else "host-error"
        assert (container.error or {})["code"] == expected
        await nothing_is_left(manager, image)
        await manager.containers.start("web")
        assert (await manager.wait("web", Until.RUNNING)).state is ContainerState.RUNNING
        await renewed(manager)
        await check(manager.running)


async def test_a_renewal_that_is_cancelled_leaves_nothing(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def hang(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(RuntimeImageRepository, "renew", hang)
    async with place.manager() as manager:
        image = await register(manager)
        await manager.create()
        await reached.wait()
        assert len(folders(place)) == 2
        await manager.containers.delete("web", force=True)
        await nothing_is_left(manager, image)


async def nothing_is_left(manager: Manager, image: RuntimeImage) -> None:
    assert await manager.services.images.list() == (image,)
    assert folders(manager.lab) == {image.path}
    await check(manager.running)

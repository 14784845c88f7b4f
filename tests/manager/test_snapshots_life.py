"""Runtime snapshots: built, rebuilt, deleted while in use, limited in number."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.eventually import until
from tests.support.impatient import impatient_with_docker
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import Conflict, IllegalTransition, InUse, NotFound
from warmboot.model.journal.event import Event
from warmboot.model.runtime_snapshot import (
    DISK_FILE,
    MEMORY_FILE,
    METADATA_FILE,
    ROOTFS_FILE,
    STATE_FILE,
    SnapshotState,
)
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootMethod


async def test_a_build_is_laid_out_as_specified(manager: Manager) -> None:
    snapshot = await manager.snapshot()
    folder = Path(snapshot.snapshot_path)
    names = {path.name for path in folder.iterdir()}
    assert {MEMORY_FILE, STATE_FILE, ROOTFS_FILE, DISK_FILE, METADATA_FILE} <= names
    assert snapshot.fc_version == "1.0"
    assert snapshot.metadata["compressed"] is False
    assert snapshot.metadata["mem_size_bytes"] == (folder / MEMORY_FILE).stat().st_size
    assert snapshot.metadata["size_bytes"] > 0
    assert vmm_pids(manager.lab.storage) == [], "the builder's VM is gone"


async def test_events_tell_a_build_in_order(manager: Manager) -> None:
    snapshot = await manager.snapshot()

    async def told() -> list[Event] | None:  # a moment after the state has changed
        events = await manager.events_of(snapshot.id)
        return events if events[-1].kind == "runtime-snapshot.ready" else None

    events = await manager.until(told, "the last event")
    kinds = [e.kind.removeprefix("runtime-snapshot.") for e in events]
    assert kinds == ["creating", *["stage"] * 5, "ready"]
    stages = [e.data["stage"] for e in events if "stage" in e.data]
    assert stages == ["boot", "docker", "warm-up", "publish", "canary"]


@pytest.mark.parametrize(
    "fault", [{"fail_boot": True}, {"fail_save": True}, {"die_after_s": 0.05, "die": "boot"}]
)
async def test_a_build_that_fails_says_why_and_leaves_nothing(
    manager: Manager, fault: dict[str, object]
) -> None:
    image = await manager.image()
    manager.lab.set(docker_s=0.2, **fault)
    snapshot_id = await manager.snapshots.create(image.id, None)
    snapshot = await manager.snapshot_until(snapshot_id, SnapshotState.UNHEALTHY)
    assert snapshot.error is not None
    assert snapshot.error["brief"]
    await check(manager.running)
    assert vmm_pids(manager.lab.storage) == []
    assert not Path(snapshot.snapshot_path).exists()


async def test_a_build_whose_docker_never_answers_ends(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient_with_docker(monkeypatch)
    async with place.manager() as manager:
        image = await manager.image()
        manager.lab.set(docker_never_ready="boot")
        snapshot_id = await manager.snapshots.create(image.id, None)
        snapshot = await manager.snapshot_until(snapshot_id, SnapshotState.UNHEALTHY)
        assert snapshot.error is not None
        assert snapshot.error["code"] == "docker-not-ready"
        await check(manager.running)


async def test_a_build_that_cannot_write_fails_and_says_so(manager: Manager) -> None:
    """The folder of the image's snapshots cannot be made: a file is in its place."""
    image = await manager.image()
    manager.host.snapshots.root.joinpath(str(image.id)).write_text("in the way")
    snapshot_id = await manager.snapshots.create(image.id, None)
    snapshot = await manager.snapshot_until(snapshot_id, SnapshotState.UNHEALTHY)
    assert snapshot.error is not None
    manager.host.snapshots.root.joinpath(str(image.id)).unlink()
    assert (await manager.snapshot()).state is SnapshotState.READY


async def test_a_rebuild_serves_the_old_one_until_the_new_is_ready(manager: Manager) -> None:
    old = await manager.snapshot()
    manager.lab.set(docker_s=0.5)
    new_id = await manager.snapshots.rebuild(old.id)
    container = await manager.run("during")
    assert container.runtime_snapshot_id == old.id
    new = await manager.snapshot_until(new_id, SnapshotState.READY)
    assert new.shape == old.shape
    manager.lab.set(docker_s=0)
    assert (await manager.run("after")).runtime_snapshot_id == new_id
    # The old one's files stay for as long as the container on it lives.
    assert (await manager.snapshots.get(old.id)).state is SnapshotState.DELETED
    assert Path(old.snapshot_path).exists()
    await manager.containers.delete("during", force=True)
    assert not Path(old.snapshot_path).exists()
    with pytest.raises(NotFound):
        await manager.snapshots.get(old.id)


async def test_a_rebuild_that_fails_leaves_the_old_one(manager: Manager) -> None:
    old = await manager.snapshot()
    manager.lab.set(fail_save=True)
    new_id = await manager.snapshots.rebuild(old.id)

    async def given_up() -> bool | None:
        everything = await manager.snapshots.list(include_deleted=True)
        return True if new_id not in [s.id for s in everything] else None

    await manager.until(given_up)
    assert (await manager.snapshots.get(old.id)).state is SnapshotState.READY
    assert (await manager.run()).boot_method is BootMethod.WARM
    await check(manager.running, ready=[old])


async def test_one_rebuild_at_a_time(manager: Manager) -> None:
    old = await manager.snapshot()
    manager.lab.set(docker_s=600)
    results = await asyncio.gather(
        *(manager.snapshots.rebuild(old.id) for _ in range(4)), return_exceptions=True
    )
    assert sorted(type(r).__name__ for r in results) == ["Conflict"] * 3 + ["UUID"]
    with pytest.raises(Conflict, match="already being rebuilt"):
        await manager.snapshots.rebuild(old.id)
    manager.lab.set(docker_s=0)
    await check(manager.running, ready=[old])


async def test_what_is_created_or_deleted_cannot_be_rebuilt(manager: Manager) -> None:
    image = await manager.image()
    manager.lab.set(docker_s=600)
    snapshot_id = await manager.snapshots.create(image.id, None)
    with pytest.raises(IllegalTransition):
        await manager.snapshots.rebuild(snapshot_id)
    manager.lab.set(docker_s=0)
    with pytest.raises(NotFound):
        await manager.snapshots.rebuild(uuid4())


async def test_the_successor_serves_though_the_old_one_was_deleted(manager: Manager) -> None:
    old = await manager.snapshot()
    manager.lab.set(docker_s=600)
    new_id = await manager.snapshots.rebuild(old.id)
    await manager.snapshots.delete(old.id)
    manager.lab.set(docker_s=0)
    new = await manager.snapshot_until(new_id, SnapshotState.READY)
    assert (await manager.run()).runtime_snapshot_id == new.id


async def test_deleting_one_in_use_is_deferred_and_nothing_is_lost(manager: Manager) -> None:
    snapshot = await manager.snapshot()
    folder = Path(snapshot.snapshot_path)
    await manager.run("one")
    await manager.run("two")
    await manager.snapshots.delete(snapshot.id)
    assert folder.exists()
    assert await manager.snapshots.list() == ()
    assert (await manager.containers.get("one")).state is ContainerState.RUNNING
    assert (await manager.run("three")).boot_method is BootMethod.COLD
    await manager.containers.delete("one", force=True)
    assert folder.exists()
    await check(manager.running)
    await manager.containers.delete("two", force=True)
    assert not folder.exists()
    with pytest.raises(NotFound):
        await manager.snapshots.get(snapshot.id)


async def test_the_last_lease_may_end_by_a_boot_that_fails(manager: Manager) -> None:
    snapshot = await manager.snapshot()
    manager.lab.set(docker_never_ready="restore")
    container_id = await manager.create()
    await manager.until(lambda: manager.vmm_runs(container_id))
    assert await manager.store.snapshots.leases(snapshot.id) == (str(container_id),)
    await manager.snapshots.delete(snapshot.id)
    manager.lab.kill_everything()
    container = await manager.wait(str(container_id), Until.RUNNING)
    assert container.state is ContainerState.RUNNING
    assert container.boot_method is BootMethod.COLD
    await check(manager.running)
    assert not Path(snapshot.snapshot_path).exists()


async def test_deleting_twice_is_not_found(manager: Manager) -> None:
    snapshot = await manager.snapshot()
    await manager.snapshots.delete(snapshot.id)
    with pytest.raises(NotFound):
        await manager.snapshots.delete(snapshot.id)
    with pytest.raises(NotFound):
        await manager.snapshots.delete(uuid4())


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.08, 0.1, 0.12, 0.15])
async def test_one_that_is_being_built_can_be_deleted(manager: Manager, delay: float) -> None:
    image = await manager.image()
    snapshot_id = await manager.snapshots.create(image.id, None)
    await asyncio.sleep(delay)
    await manager.snapshots.delete(snapshot_id)
    await check(manager.running)
    assert await manager.snapshots.list(include_deleted=True) == ()
    assert vmm_pids(manager.lab.storage) == []
    assert list(manager.host.snapshots.root.glob("*/*")) == []


async def test_deletes_of_snapshots_and_containers_at_once_leave_nothing(manager: Manager) -> None:
    snapshot = await manager.snapshot()
    other = await manager.snapshot()
    await asyncio.gather(*(manager.run(f"c{n}") for n in range(6)))
    results = await asyncio.gather(
        manager.snapshots.delete(snapshot.id),
        manager.snapshots.delete(other.id),
        *(manager.containers.delete(f"c{n}", force=True) for n in range(6)),
        return_exceptions=True,
    )
    assert [r for r in results if r is not None] == []
    await check(manager.running)
    assert list(manager.host.snapshots.root.glob("*/*")) == []


async def test_there_are_at_most_as_many_as_allowed(place: Lab) -> None:
    async with place.manager(max_runtime_snapshots=2) as manager:
        image = await manager.image()
        results = await asyncio.gather(
            *(manager.snapshots.create(image.id, Shape(1, 256 + 2 * n)) for n in range(5)),
            return_exceptions=True,
        )
        assert sorted(type(r).__name__ for r in results) == ["Conflict"] * 3 + ["UUID"] * 2
        refused = next(r for r in results if isinstance(r, Conflict))
        assert "MANAGER_MAX_RUNTIME_SNAPSHOTS is 2" in refused.details
        await check(manager.running)
        first = (await manager.snapshots.list())[0]
        # A rebuild takes a place, and is allowed all the same: it gives one back.
        await manager.snapshots.rebuild(first.id)
        await check(manager.running)
        assert len(await manager.snapshots.list()) == 2


async def test_an_unknown_runtime_image_is_refused(manager: Manager) -> None:
    with pytest.raises(NotFound):
        await manager.snapshots.create(uuid4(), None)
    assert await manager.snapshots.list(include_deleted=True) == ()


async def test_an_image_in_use_is_not_deleted(manager: Manager) -> None:
    image = await manager.image()
    snapshot = await manager.snapshot()
    with pytest.raises(InUse):
        await manager.services.images.delete(image.id)
    assert image.kernel.exists()
    await manager.snapshots.delete(snapshot.id)
    await manager.services.images.delete(image.id)
    assert not image.path.exists()


async def test_each_shape_has_snapshots_of_its_own(manager: Manager) -> None:
    small, large = await manager.snapshot(), await manager.snapshot(shape=Shape(2, 512))
    assert (await manager.run("a", shape=Shape(2, 512))).runtime_snapshot_id == large.id
    assert (await manager.run("b", shape=small.shape)).runtime_snapshot_id == small.id
    assert (await manager.run("c")).runtime_snapshot_id == small.id


async def test_a_manager_that_stops_while_it_builds_leaves_it_to_the_next(place: Lab) -> None:
    async with place.manager() as manager:
        image = await manager.image()
        place.set(docker_s=30)
        snapshot_id = await manager.snapshots.create(image.id, None)
        await until(lambda: vmm_pids(place.storage) != [], "its VM is there")
    assert vmm_pids(place.storage) == []
    place.set(docker_s=0)
    async with place.manager() as manager:
        await manager.snapshot_until(snapshot_id, SnapshotState.READY)
        await check(manager.running)

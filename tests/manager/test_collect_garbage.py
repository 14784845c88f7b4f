"""Garbage is collected: what nobody needs, nothing that anybody uses, while boots go on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update
from tests.support.archives import archived
from tests.support.invariants import check
from tests.support.managers import Lab, Manager

from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import Conflict, DiskFull
from warmboot.model.garbage import Garbage, Why
from warmboot.model.journal.operation import OperationState
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootMethod, BootPolicy
from warmboot.store.repositories.snapshots import RuntimeSnapshotRepository
from warmboot.store.tables import runtime_snapshots


async def used(manager: Manager, snapshot: RuntimeSnapshot, days_ago: float) -> None:
    """As if it had been used last so long ago."""
    at = datetime.now(UTC) - timedelta(days=days_ago)
    async with manager.store._database.write() as connection:
        await connection.execute(
            update(runtime_snapshots)
            .where(runtime_snapshots.c.id == snapshot.id)
            .values(last_used_at=at)
        )


def whys(garbage: Collection[Garbage]) -> dict[str, Why]:
    return {one.name: one.why for one in garbage}


async def states(manager: Manager) -> dict[UUID, SnapshotState]:
    return {s.id: s.state for s in await manager.snapshots.list(include_deleted=True)}


async def test_there_is_nothing_to_collect_at_first(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    await manager.run()
    for dry_run in (True, False):
        done = await manager.services.garbage.collect(dry_run=dry_run)
        assert (done.removed, done.kept) == ((), ())


async def test_a_dry_run_says_what_and_why_and_touches_nothing(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    await used(manager, snapshot, 31)
    folder = manager.host.vms.root / "vm-orphan"
    folder.mkdir()
    os.utime(folder, (0, 0))
    done = await manager.services.garbage.collect(dry_run=True)
    assert whys(done.removed) == {str(snapshot.id): Why.UNUSED, "vm-orphan": Why.ORPHAN}
    assert done.freed_bytes > 0
    assert folder.exists()
    assert await states(manager) == {snapshot.id: SnapshotState.READY}
    folder.rmdir()


async def test_unused_snapshots_go_with_files_and_row(manager: Manager) -> None:
    old, young = await manager.snapshot(), await manager.snapshot()
    await used(manager, old, 31)
    done = await manager.services.garbage.collect()
    assert whys(done.removed) == {str(old.id): Why.UNUSED}
    assert await states(manager) == {young.id: SnapshotState.READY}
    assert not Path(old.snapshot_path).exists()
    (event,) = [e for e in await manager.events_of("garbage") if e.kind == "garbage.collected"]
    assert event.data["reasons"] == {"unused": 1}
    assert event.data["freed_bytes"] == done.freed_bytes > 0


async def test_what_a_vm_maps_is_not_touched_however_old(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    container = await manager.run()
    assert container.boot_method is BootMethod.WARM
    await used(manager, snapshot, 300)
    done = await manager.services.garbage.collect()
    assert done.removed == ()
    assert await states(manager) == {snapshot.id: SnapshotState.READY}
    await manager.containers.delete("web", force=True)
    await manager.services.garbage.collect()
    assert await states(manager) == {}


async def test_a_pinned_one_stays(snapshot: RuntimeSnapshot, manager: Manager) -> None:
    await manager.snapshots.set_traits(snapshot.id, pinned=True)
    await used(manager, snapshot, 300)
    assert (await manager.services.garbage.collect()).removed == ()
    await manager.snapshots.set_traits(snapshot.id, pinned=False)
    assert len((await manager.services.garbage.collect()).removed) == 1


async def test_the_one_that_a_rebuild_relies_on_stays_until_the_swap(manager: Manager) -> None:
    old = await manager.snapshot()
    manager.lab.set(docker_s=600)
    new_id = await manager.snapshots.rebuild(old.id)
    await used(manager, old, 300)
    assert (await manager.services.garbage.collect()).removed == ()
    assert (await manager.snapshots.get(old.id)).state is SnapshotState.READY
    manager.lab.set(docker_s=0)
    await manager.snapshot_until(new_id, SnapshotState.READY)
    await check(manager.running)


async def test_orphans_of_every_kind_go(snapshot: RuntimeSnapshot, manager: Manager) -> None:
    container = await manager.run()
    root, files = manager.host.storage.root, manager.host.snapshots.root
    image = str(snapshot.runtime_image_id)
    orphans = [
        files / image / str(uuid4()),
        files / image / f".building-{uuid4()}",
        files / image / f".gone-{uuid4()}",
        files / str(uuid4()),
        files / str(uuid4()) / str(uuid4()),
        root / "runtime-images" / ("ab" * 32),
        root / "runtime-images" / ".x.1234.partial",
        root / "vms" / "vm-nobody",
        root / "archives" / ("cd" * 32),
        root / "archives" / ".upload-12",
        root / "checkpoint-archives",
        Path(snapshot.snapshot_path) / ".seen.json.new",
    ]
    for path in orphans:
        is_file = path.suffix in (".tar", ".new") or path.parent.name == "archives"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x") if is_file else path.mkdir(parents=True)
    for path in orphans:
        os.utime(path, (0, 0))
    done = await manager.services.garbage.collect()
    assert [path for path in orphans if path.exists()] == []
    assert done.kept == ()
    assert len(done.removed) == len(orphans)
    assert (await manager.containers.get("web")).vm_id == container.vm_id
    assert (await manager.run("other")).boot_method is BootMethod.WARM
    # An image's folder of snapshots that has become empty goes with the next collection.
    await manager.services.garbage.collect()
    assert {path.name for path in files.iterdir()} == {image}


@pytest.mark.parametrize("is_file", [True, False])
async def test_what_has_no_name_of_ours_is_an_orphan_like_any_other(
    snapshot: RuntimeSnapshot, manager: Manager, is_file: bool
) -> None:
    root, folder = manager.host.storage.root, snapshot.snapshot_path
    strangers = [
        folder.with_name(f"{folder.name}.bak"),
        folder.parents[1] / "notes",
        root / "runtime-images" / "old",
        root / "vms" / "notes",
        root / "archives" / "notes",
    ]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x") if is_file else path.mkdir()
        os.utime(path, (0, 0))
    found = await manager.services.garbage.collect(dry_run=True)
    assert whys(found.removed) == dict.fromkeys((path.name for path in strangers), Why.ORPHAN)
    assert all(path.exists() for path in strangers)
    done = await manager.services.garbage.collect()
    assert (whys(done.removed), done.kept) == (whys(found.removed), ())
    assert [path for path in strangers if path.exists()] == []
    assert (await manager.run()).boot_method is BootMethod.WARM


async def test_a_folder_by_another_name_does_not_keep_the_limit_from_making_room(
    place: Lab,
) -> None:
    async with place.manager(max_runtime_snapshots=1) as manager:
        first = await manager.snapshot()
        first.snapshot_path.with_name(f"{first.id}.bak").mkdir()
        second = await manager.snapshot()
        assert set(await states(manager)) == {second.id}


async def test_what_is_used_between_the_look_and_its_turn_is_told_as_kept(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    retire = RuntimeSnapshotRepository.retire

    async def used_just_before(self: RuntimeSnapshotRepository, seen: RuntimeSnapshot) -> bool:
        await self.record_success(seen.id, datetime.now(UTC))
        return await retire(self, seen)

    monkeypatch.setattr(RuntimeSnapshotRepository, "retire", used_just_before)
    async with place.manager() as manager:
        old = await manager.snapshot()
        await used(manager, old, 31)
        done = await manager.services.garbage.collect()
        assert (done.removed, whys(done.kept)) == ((), {str(old.id): Why.UNUSED})
        assert await states(manager) == {old.id: SnapshotState.READY}


async def test_an_archive_is_kept_as_long_as_a_container_may_need_it(place: Lab) -> None:
    async with place.manager() as manager:
        archive = manager.host.storage.root / "archives" / await archived(manager, "busybox")
        container_id = await manager.create(archive=archive.name)
        await manager.wait(str(container_id), Until.RUNNING)
        os.utime(archive, (0, 0))
        assert (await manager.services.garbage.collect()).removed == ()
        await manager.containers.delete(str(container_id), force=True)
        os.utime(archive, (0, 0))
        assert len((await manager.services.garbage.collect()).removed) == 1
        assert not archive.exists()


async def test_what_is_just_being_built_is_left_alone(manager: Manager) -> None:
    image = await manager.image()
    manager.lab.set(docker_s=0.5)
    snapshot_id = await manager.snapshots.create(image.id, None)
    container_id = await manager.create(boot=BootPolicy.COLD)
    for _ in range(10):
        await asyncio.sleep(0.05)  # further on in the build
        assert (await manager.services.garbage.collect()).removed == ()
    await manager.snapshot_until(snapshot_id, SnapshotState.READY)
    container = await manager.wait(str(container_id), Until.RUNNING)
    assert container.state is ContainerState.RUNNING, container.error
    manager.lab.set(docker_s=0)


@pytest.mark.parametrize("vm", ["vm_id", "canary_vm_id"])
async def test_the_folder_of_a_vm_that_an_operation_is_about_to_make_is_left_alone(
    place: Lab, vm: str
) -> None:
    async with place.manager() as manager:
        folder = manager.host.vms.root / "vm-made"
        folder.mkdir()
        os.utime(folder, (0, 0))
        operations = manager.store.operations
        begun = await operations.begin("build-snapshot", str(uuid4()), {vm: folder.name})
        assert (await manager.services.garbage.collect()).removed == ()
        await operations.set_state(begun.id, OperationState.DONE)
        assert whys((await manager.services.garbage.collect()).removed) == {folder.name: Why.ORPHAN}


async def test_boots_and_collections_at_once_harm_nobody(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    """The snapshot is old enough to go at any moment, and is leased all the time anew."""

    async def collect() -> None:
        for _ in range(12):
            await used(manager, snapshot, 31)
            await manager.services.garbage.collect()

    async def boot(name: str) -> None:
        for number in range(3):
            container = await manager.run(f"{name}{number}")
            assert container.state is ContainerState.RUNNING, container.error
            await manager.containers.delete(f"{name}{number}", force=True)

    await asyncio.gather(collect(), *(boot(name) for name in "abc"))
    await check(manager.running)


async def test_collections_at_once_collect_once(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    await used(manager, snapshot, 31)
    collect = manager.services.garbage.collect
    done = await asyncio.gather(collect(), collect(), collect(dry_run=True), collect())
    assert sum(len(one.removed) for one in done if not one.dry_run) == 1


# -- the limit -------------------------------------------------------------------------------------


async def test_at_the_limit_the_one_unused_for_longest_makes_room(place: Lab) -> None:
    async with place.manager(max_runtime_snapshots=2) as manager:
        first, second = await manager.snapshot(), await manager.snapshot()
        await used(manager, first, 1)
        await used(manager, second, 2)
        third = await manager.snapshot()
        assert set(await states(manager)) == {first.id, third.id}
        assert not Path(second.snapshot_path).exists()
        await check(manager.running)


async def test_at_the_limit_with_all_pinned_or_in_use_nothing_goes(place: Lab) -> None:
    async with place.manager(max_runtime_snapshots=2) as manager:
        pinned, leased = await manager.snapshot(), await manager.snapshot(shape=Shape(2, 512))
        await manager.snapshots.set_traits(pinned.id, pinned=True)
        await manager.run("web", shape=Shape(2, 512))
        with pytest.raises(Conflict, match="none of them can be removed"):
            await manager.snapshots.create(pinned.runtime_image_id, Shape(1, 512))
        assert set(await states(manager)) == {pinned.id, leased.id}


async def test_where_one_is_not_enough_none_goes(place: Lab) -> None:
    async with place.manager() as manager:
        for memory in (256, 512, 768):
            one = await manager.snapshot(shape=Shape(1, memory))
            if memory != 256:
                await manager.snapshots.set_traits(one.id, pinned=True)
    async with place.manager(max_runtime_snapshots=2) as manager:
        with pytest.raises(Conflict):
            await manager.snapshots.create(one.runtime_image_id, Shape(1, 1024))
        assert len(await states(manager)) == 3
        # A collection brings down to the limit what it may.
        done = await manager.services.garbage.collect()
        assert set(whys(done.removed).values()) == {Why.OVER_LIMIT}
        assert len(await states(manager)) == 2


# -- the floor -------------------------------------------------------------------------------------


async def test_below_the_floor_nothing_is_built_or_changed(place: Lab) -> None:
    async with place.manager() as manager:
        snapshot = await manager.snapshot()
    async with place.manager(disk_floor_mib=1 << 30) as manager:
        with pytest.raises(DiskFull, match="MiB are free"):
            await manager.snapshots.create(snapshot.runtime_image_id, None)
        with pytest.raises(DiskFull):
            await manager.snapshots.rebuild(snapshot.id)
        await manager.services.forms.compress(snapshot.id)

        async def told() -> bool | None:
            events = await manager.events_of(snapshot.id)
            return True if events[-1].kind == "runtime-snapshot.compress-failed" else None

        await manager.until(told, "it says that it could not")
        now = await manager.snapshots.get(snapshot.id)
        assert now.state is SnapshotState.READY
        assert now.metadata["compressed"] is False
        await check(manager.running, ready=[snapshot])


async def test_the_collector_does_not_mistake_the_store_for_garbage(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    """Everything a working manager keeps is known to it: nothing else would be safe."""
    await manager.run("one")
    await manager.run("two", "echo", "over")
    await manager.wait("two", Until.EXITED)
    assert (await manager.services.garbage.collect(dry_run=True)).removed == ()

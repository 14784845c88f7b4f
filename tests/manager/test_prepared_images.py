"""Snapshots of the depth ``image``: built, started from, moved, rebuilt, bounded."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import UUID

import pytest
from tests.support.absent import ABSENT
from tests.support.invariants import check
from tests.support.managers import Lab, Manager
from tests.support.prepared_labs import prepare

from warmboot.hypervisors import process
from warmboot.images.warm_up_image import WARM_UP_TAG
from warmboot.manager.protocols import Until
from warmboot.manager.snapshots.build_image_snapshot import BuildImageSnapshot
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.model.container import ContainerState
from warmboot.model.errors import Conflict, HostError, InUse
from warmboot.model.runtime_snapshot import (
    IMAGE_DIGEST,
    BuildCause,
    Depth,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.tenants.boot import BootMethod, FallbackReason
from warmboot.model.tenants.container_options import ContainerOptions, PullPolicy
from warmboot.model.vm import VmSpec

STEPS = [step.name for step in BuildImageSnapshot(*[ABSENT] * 6).saga.steps]


def noun(m: Manager) -> RuntimeSnapshots:
    found = m.snapshots
    assert isinstance(found, RuntimeSnapshots)
    return found


async def decided(m: Manager, snapshot_id: UUID) -> RuntimeSnapshot:
    """As it is when its build is over."""

    async def over() -> bool:
        return (await m.snapshots.get(snapshot_id)).state is not SnapshotState.CREATING

    await m.until(over)
    return await m.snapshots.get(snapshot_id)


async def prepared(m: Manager, reference: str = "busybox") -> RuntimeSnapshot:
    image = await m.image()
    made = await decided(m, await noun(m).prepare_image(reference, image.id, None))
    assert made.state is SnapshotState.READY, made.error
    return made


async def test_a_container_starts_where_its_image_is_already(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    made = await prepared(manager)
    assert (made.depth, made.image, made.parent_id) == (Depth.IMAGE, "busybox:latest", snapshot.id)
    assert made.metadata[IMAGE_DIGEST].startswith("sha256:")
    assert made.stored_bytes is not None
    container = await manager.run()
    assert (container.state, container.boot_method) == (ContainerState.RUNNING, BootMethod.WARM)
    assert container.runtime_snapshot_id == made.id
    assert "pull" not in [stage.name for stage in container.stages]
    assert (await manager.snapshots.get(made.id)).success_count == 1
    # Nobody's name, and nothing of the walk, is in it.
    (record,) = await manager.store.vms.of_owner(container.id)
    running = await manager.host.vms.link(record.id).docker.running()
    assert container.docker_id in running
    other = await manager.run("other", image="nginx")
    assert other.runtime_snapshot_id == snapshot.id
    assert "pull" in [stage.name for stage in other.stages]
    with pytest.raises(InUse, match="is in use"):
        await manager.snapshots.delete(snapshot.id)


async def test_the_warm_pool_has_vms_of_it_by_demand(
    snapshot: RuntimeSnapshot, place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_give_way", lambda _: None)
    async with place.manager(pool_min_vms=0, pool_max_vms=2) as m:
        made = await prepared(m)
        assert (await m.run("one")).runtime_snapshot_id == made.id

        async def look() -> bool:
            kept = (await m.services.system.info()).warm_pool.snapshots
            return [(one.image, one.ready) for one in kept] == [("busybox:latest", 1)]

        await m.until(look, "one with the image is in the pool")
        before = {folder.name for folder in m.host.vms.root.iterdir()}
        container = await m.run("two")
        assert (container.state, container.boot_method) == (ContainerState.RUNNING, BootMethod.WARM)
        assert container.runtime_snapshot_id == made.id
        assert container.vm_id in before
        assert "pull" not in [stage.name for stage in container.stages]


async def test_one_that_cannot_be_pooled_rests_and_keeps_no_other_out(
    snapshot: RuntimeSnapshot, place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_give_way", lambda _: None)
    async with place.manager(pool_min_vms=0, pool_max_vms=2) as m:
        await prepared(m)
        tried, prewarm = list[float](), m.host.vms.prewarm

        async def failing(spec: VmSpec, path: Path) -> None:
            if path == snapshot.snapshot_path:
                tried.append(time.monotonic())
                raise HostError("it does not come up")
            await prewarm(spec, path)

        monkeypatch.setattr(m.host.vms, "prewarm", failing)
        await m.run("other", image="nginx")
        await m.run("one")

        async def look() -> bool:
            pool = (await m.services.system.info()).warm_pool
            kept = [one.image for one in pool.snapshots if one.ready]
            return bool(tried) and kept == ["busybox:latest"]

        await m.until(look, "the version's was tried, and the image's is in the pool")
        assert len(tried) <= 2 + (time.monotonic() - tried[0]) / 15


async def test_what_goes_wrong_with_it_is_told_and_the_runtime_snapshot_is_taken(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    made = await prepared(manager)
    (made.snapshot_path / "snapshot.state").unlink()
    container = await manager.run()
    assert (container.boot_method, container.runtime_snapshot_id) == (
        BootMethod.WARM,
        snapshot.id,
    )
    assert [(one.snapshot_id, one.reason) for one in container.boot_attempts] == [
        (made.id, FallbackReason.SNAPSHOT_DAMAGED)
    ]
    # It is rebuilt by itself: the next one starts from its successor.

    async def rebuilt() -> bool:
        found = [s for s in await manager.snapshots.list() if s.depth is Depth.IMAGE]
        return [s.state for s in found] == [SnapshotState.READY] and found[0].id != made.id

    await manager.until(rebuilt)


async def test_an_image_that_is_not_there_is_told(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    image = await manager.image()
    failed = await decided(
        manager, await noun(manager).prepare_image("missing/one", image.id, None)
    )
    assert failed.state is SnapshotState.UNHEALTHY
    assert failed.error is not None
    assert "missing/one" in str(failed.error)
    container = await manager.run()
    assert container.runtime_snapshot_id == snapshot.id
    # What has failed keeps nothing: neither from being removed, nor its files.
    assert await manager.store.snapshots.leases(snapshot.id) == (str(container.id),)
    await manager.containers.delete("web", force=True)
    await manager.snapshots.delete(snapshot.id)
    assert [s.id for s in await manager.snapshots.list(include_deleted=True)] == [failed.id]


async def test_without_a_version_there_is_nothing_to_begin_from(manager: Manager) -> None:
    image = await manager.image()
    with pytest.raises(Conflict, match="busybox:latest cannot be prepared"):
        await noun(manager).prepare_image("busybox", image.id, None)
    assert await manager.snapshots.list() == ()


async def test_a_tag_that_moved_is_seen_by_who_pulls(
    snapshot: RuntimeSnapshot, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await prepared(manager)
    always = ContainerOptions(pull=PullPolicy.ALWAYS)
    same = await manager.run("same", options=always)
    assert same.runtime_snapshot_id == made.id
    assert (await manager.snapshots.get(made.id)).state is SnapshotState.READY
    await noun(manager).image_moved(made.id, "sha256:other")

    async def rebuilt() -> bool:
        found = [s for s in await manager.snapshots.list() if s.depth is Depth.IMAGE]
        return [(s.state, s.id != made.id) for s in found] == [(SnapshotState.READY, True)]

    await manager.until(rebuilt)


async def test_it_is_rebuilt_when_what_it_lies_on_is(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    made = await prepared(manager)
    new_base = await decided(manager, await manager.snapshots.rebuild(snapshot.id))

    async def follows() -> bool:
        found = [s for s in await manager.snapshots.list() if s.depth is Depth.IMAGE]
        return [(s.parent_id, s.state) for s in found] == [(new_base.id, SnapshotState.READY)]

    await manager.until(follows)
    (now,) = [s for s in await manager.snapshots.list() if s.depth is Depth.IMAGE]
    assert (now.cause, now.image) == (BuildCause.BASE, made.image)

    async def gone() -> bool:
        left = await manager.snapshots.list(include_deleted=True)
        return {s.id for s in left} == {new_base.id, now.id}

    await manager.until(gone)


async def test_there_are_so_many_and_the_least_used_one_goes(place: Lab) -> None:
    await prepare(place, snapshot=True)
    async with place.manager(max_image_snapshots=1) as m:
        first = await prepared(m)
        second = await prepared(m, "nginx")
        found = [s.id for s in await m.snapshots.list() if s.depth is Depth.IMAGE]
        assert found == [second.id]
        assert first.id not in found
        held = await m.run(image="nginx")
        assert held.runtime_snapshot_id == second.id
        with pytest.raises(Conflict, match="1 images are prepared already"):
            await prepared(m)
        await m.containers.delete("web", force=True)
        await check(m.running)


async def test_one_prepared_anew_takes_the_place_of_the_other(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    first = await prepared(manager)
    container = await manager.run()
    second = await prepared(manager, "busybox:latest")
    found = [s.id for s in await manager.snapshots.list() if s.depth is Depth.IMAGE]
    assert found == [second.id]
    # The first one is kept for who runs on it, and goes with it.
    assert (await manager.snapshots.get(first.id)).state is SnapshotState.DELETED
    (fork,) = await manager.containers.fork("web", 1)
    assert fork.state is ContainerState.RUNNING
    for name in (fork.name, container.name):
        await manager.containers.delete(name, force=True)
    left = {s.id for s in await manager.snapshots.list(include_deleted=True)}
    assert left == {snapshot.id, second.id}


async def test_each_step_that_fails_is_undone(place: Lab) -> None:
    failing: list[str] = []

    async def hook(saga: str, step: str) -> None:
        if saga == "build-image-snapshot" and step in failing:
            raise Conflict("made to fail")

    await prepare(place, snapshot=True)
    async with place.manager(hook) as m:
        image = await m.image()
        made = await prepared(m)
        for step in STEPS:
            failing[:] = [step]
            again = await noun(m).prepare_image("busybox", image.id, None)

            async def gone(snapshot_id: UUID = again) -> bool:
                left = await m.snapshots.list(include_deleted=True)
                return snapshot_id not in {s.id for s in left}

            await m.until(gone)
            assert (await m.snapshots.get(made.id)).state is SnapshotState.READY
        await check(m.running)
        container = await m.run()
        assert container.runtime_snapshot_id == made.id
        await m.containers.stop("web", 0.1)
        await m.containers.start("web")
        await m.wait("web", Until.RUNNING)
        await m.containers.delete("web", force=True)


async def test_an_image_that_is_started_often_is_prepared(place: Lab) -> None:
    (version,) = await prepare(place, snapshot=True)
    async with place.manager(image_demand_starts=2, max_image_snapshots=1) as m:
        for name in ("there", "there-too"):  # what need not be pulled gains nothing
            await m.run(name, image=WARM_UP_TAG)
        for name in ("one", "two"):
            assert (await m.run(name)).runtime_snapshot_id == version.id

        async def ready() -> bool:
            found = [s for s in await m.snapshots.list() if s.depth is Depth.IMAGE]
            return [(s.image, s.state) for s in found] == [("busybox:latest", SnapshotState.READY)]

        await m.until(ready)
        (made,) = [s for s in await m.snapshots.list() if s.depth is Depth.IMAGE]
        assert made.cause is BuildCause.DEMAND
        # Another one, as often, does not drive it out.
        for name in ("three", "four", "five"):
            assert (await m.run(name, image="nginx")).runtime_snapshot_id == version.id
        assert (await m.run("six")).runtime_snapshot_id == made.id
        assert [s.id for s in await m.snapshots.list() if s.depth is Depth.IMAGE] == [made.id]
        for container in await m.containers.list():
            await m.containers.delete(container.name, force=True)
        await check(m.running)

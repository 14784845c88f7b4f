"""Rebuilds that a full disk or a busy host holds up; what a successor keeps of the old one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from tests.support.impatient import impatient_with_docker
from tests.support.invariants import check
from tests.support.managers import Lab, Manager
from tests.support.rebuilds import event, ready, spoil

from warmboot.manager.core.event_log import EventLog
from warmboot.manager.snapshots.plan_rebuilds import RetryPolicy
from warmboot.manager.snapshots.reconcile_snapshots import ReconcilerConfig, SnapshotReconciler
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.model.errors import CanaryFailed, DiskFull, HostError
from warmboot.model.runtime_snapshot import BuildCause, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.system import disks

FLOOR_MIB = 64


class Disk:
    """How much is free, as the manager sees it."""

    def __init__(self) -> None:
        self.free_bytes = 1 << 40

    def fill(self) -> None:
        self.free_bytes = 1 << 20

    def clear(self) -> None:
        self.free_bytes = 1 << 40


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(disks, "free_bytes", lambda _: made.free_bytes)
    return made


def reconciler(manager: Manager, retry: RetryPolicy | None = None) -> SnapshotReconciler:
    """For the snapshots of a manager that does not reconcile them by itself."""
    store, host, events = manager.store, manager.host, manager.services.events
    assert isinstance(events, EventLog)
    assert isinstance(manager.snapshots, RuntimeSnapshots)
    config = ReconcilerConfig(retry=retry or RetryPolicy())
    return SnapshotReconciler(
        store, host, events, manager.snapshots, asyncio.Event(), config, lambda work: None
    )


async def told(manager: Manager, kind: str) -> int:
    events = await manager.services.events.list(limit=1000)
    return sum(one.kind == f"runtime-snapshot.{kind}" for one in events)


# -- a full disk -----------------------------------------------------------------------------------


async def test_a_full_disk_is_waited_for_told_once_and_counted_against_nobody(
    place: Lab, disk: Disk
) -> None:
    async with place.manager(auto_rebuild=False, disk_floor_mib=FLOOR_MIB) as manager:
        spoiled = [await spoil(manager), await spoil(manager)]
        disk.fill()
        reconciling = reconciler(manager)
        pauses = [await reconciling.reconcile() for _ in range(7)]
        assert pauses == [ReconcilerConfig().room_every_s] * 7, "it is looked again, and soon"
        for snapshot in spoiled:
            now = await manager.snapshots.get(snapshot.id)
            assert (now.rebuild_failures, now.rebuild_not_before) == (0, None)
        assert await told(manager, "put-off") == 1
        assert (await told(manager, "retry"), await told(manager, "given-up")) == (0, 0)
        put_off = await event(manager, "runtime-snapshot.put-off")
        assert put_off.data["error"]["code"] == "disk-full"
        assert put_off.data["not_before"] is None
        disk.clear()
        await reconciling.reconcile()
        assert (await ready(manager)).cause is BuildCause.UNHEALTHY
        disk.fill()
        await reconciling.reconcile()
        assert await told(manager, "put-off") == 2, "it is full anew"


async def test_a_manager_that_finds_room_rebuilds_what_another_found_none_for(
    place: Lab, disk: Disk
) -> None:
    async with place.manager(rebuild_attempts=1, disk_floor_mib=FLOOR_MIB) as manager:
        snapshot = await manager.snapshot()
        (snapshot.snapshot_path / "snapshot.state").unlink()
        await manager.store.snapshots.set_state(snapshot.id, SnapshotState.UNHEALTHY)
        disk.fill()
        await reconciler(manager).reconcile()
    disk.clear()
    async with place.manager(rebuild_attempts=1, disk_floor_mib=FLOOR_MIB) as manager:
        assert (await ready(manager)).cause is BuildCause.UNHEALTHY
        await check(manager.running)


@pytest.mark.parametrize("fault", ["refused", "no room to go on"])
async def test_a_rebuild_that_a_full_disk_breaks_off_is_put_off_and_not_counted(
    place: Lab, disk: Disk, fault: str
) -> None:
    async def fill(saga: str, step: str) -> None:
        if (saga, step) != ("build-snapshot", "freeze") or not armed:
            return
        if fault == "refused":
            raise DiskFull("the disk is full: made to be")
        disk.fill()  # what the VM cannot write then ends in an error of the hypervisor's
        place.set(fail_save=True)

    armed = False
    async with place.manager(
        fill, rebuild_attempts=1, rebuild_pause_s=0.02, disk_floor_mib=FLOOR_MIB
    ) as manager:
        snapshot = await manager.snapshot()
        armed = True
        (snapshot.snapshot_path / "snapshot.state").unlink()
        await manager.run("spoiled")
        failed = await event(manager, "runtime-snapshot.failed")
        assert failed.data["error"]["code"] == "disk-full"
        put_off = await event(manager, "runtime-snapshot.put-off", snapshot.id)
        assert put_off.data["not_before"] is not None
        waiting = await manager.snapshots.get(snapshot.id)
        assert waiting.rebuild_put_off_by == "disk-full"
        assert await told(manager, "given-up") == 0
        armed = False
        disk.clear()
        place.set(fail_save=False)
        await reconciler(manager).reconcile()
        assert (await ready(manager)).cause is BuildCause.UNHEALTHY
        await check(manager.running)


async def test_what_a_full_disk_broke_off_is_begun_again_soon_after_there_is_room(
    place: Lab, disk: Disk
) -> None:
    retry = RetryPolicy(pause_s=100)
    until = datetime.now(UTC) + retry.pause_without_verdict - retry.pause_after(1)
    async with place.manager(auto_rebuild=False, disk_floor_mib=FLOOR_MIB) as manager:
        snapshot = await spoil(manager)
        await manager.store.snapshots.put_off_rebuild(snapshot.id, until, DiskFull.code)
        reconciling = reconciler(manager, retry)
        disk.fill()
        assert await reconciling.reconcile() == ReconcilerConfig().room_every_s
        assert [one.id for one in await manager.snapshots.list()] == [snapshot.id]
        disk.clear()
        await reconciling.reconcile()
        new = await ready(manager)
        assert (new.cause, new.rebuild_put_off_by) == (BuildCause.UNHEALTHY, None)


async def test_a_build_that_broke_off_waits_before_the_next(place: Lab) -> None:
    async def refuse(saga: str, step: str) -> None:
        if (saga, step) == ("build-snapshot", "freeze") and armed:
            raise DiskFull("the disk is full: made to be")

    armed = False
    async with place.manager(refuse, rebuild_pause_s=100) as manager:
        snapshot = await manager.snapshot()
        armed = True
        (snapshot.snapshot_path / "snapshot.state").unlink()
        await manager.run("spoiled")
        await event(manager, "runtime-snapshot.put-off", snapshot.id)
        await reconciler(manager).reconcile()
        waiting = await manager.snapshots.get(snapshot.id)
        assert waiting.rebuild_failures == 0
        assert waiting.rebuild_not_before is not None
        assert await told(manager, "failed") == 1
        armed = False
        new_id = await manager.snapshots.rebuild(snapshot.id)  # a user need not wait
        assert (await ready(manager)).id == new_id


async def test_a_guest_whose_own_disk_is_full_fails_its_canary(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise DiskFull("the VM's disk is full")

    monkeypatch.setattr("warmboot.manager.snapshots.canary.run_smoke_test", full)
    image = await manager.image()
    snapshot_id = await manager.snapshots.create(image.id, None)
    failed = await manager.snapshot_until(snapshot_id, SnapshotState.UNHEALTHY)
    assert (failed.error or {})["code"] == CanaryFailed.code


# -- the next look ---------------------------------------------------------------------------------


async def test_after_a_refusal_the_next_look_comes_when_its_pause_is_over(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise HostError("made to fail")

    async with place.manager(auto_rebuild=False) as manager:
        snapshot = await spoil(manager)
        monkeypatch.setattr(manager.snapshots, "rebuild_for", refuse)
        pause_s = await reconciler(manager, RetryPolicy(pause_s=2.0)).reconcile()
        refused = await manager.snapshots.get(snapshot.id)
        assert refused.rebuild_failures == 1
        assert 0 < pause_s <= 2.0


# -- a busy host -----------------------------------------------------------------------------------


class Starved:
    """A hook: the VMs of builds in the background never have their Docker ready."""

    def __init__(self, place: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        self.manager: Manager | None = None
        self.background: list[bool] = []
        impatient_with_docker(monkeypatch, lambda: self.background[-1:] == [True])

    async def __call__(self, saga: str, step: str) -> None:
        if (saga, step) != ("build-snapshot", "start") or self.manager is None:
            return
        (record,) = await self.manager.store.vms.list()
        self.background.append(record.spec.background)
        self.place.set(docker_never_ready="boot" if record.spec.background else "never")


async def test_a_rebuild_that_starves_in_the_background_is_built_at_full_speed(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    starved = Starved(place, monkeypatch)
    async with place.manager(starved, rebuild_attempts=1) as manager:
        old = await manager.snapshot()
        starved.manager = manager
        new_id = await manager.snapshots.rebuild(old.id)
        await ready(manager, id=new_id)
        assert starved.background == [True, False]
        assert await told(manager, "failed") == 0
        await check(manager.running)


async def test_what_cannot_be_built_at_full_speed_either_is_counted(place: Lab) -> None:
    async with place.manager(rebuild_attempts=1) as manager:
        snapshot = await manager.snapshot()
        place.set(fail_save=True)
        (snapshot.snapshot_path / "snapshot.state").unlink()
        await manager.run("spoiled")
        given_up = await event(manager, "runtime-snapshot.given-up", snapshot.id)
        assert given_up.data["failures"] == 1
        place.set(fail_save=False)


async def test_what_is_no_fault_of_the_vm_is_not_built_twice(place: Lab) -> None:
    async def fail(saga: str, step: str) -> None:
        if (saga, step) == ("build-snapshot", "publish") and begun:
            begun.append(step)
            raise HostError("made to fail")

    begun: list[str] = []
    async with place.manager(fail) as manager:
        old = await manager.snapshot()
        begun.append("armed")
        await manager.snapshots.rebuild(old.id)
        await event(manager, "runtime-snapshot.failed")
        assert begun == ["armed", "publish"]


# -- a measured cold boot --------------------------------------------------------------------------


async def test_a_rebuild_keeps_the_cold_boot_that_was_measured(place: Lab) -> None:
    async with place.manager() as manager:
        old = await manager.snapshot()
        await manager.store.snapshots.update_metadata(old.id, {"cold_boot_s": 77.0})
        new = await ready(manager, id=await manager.snapshots.rebuild(old.id))
        assert new.metadata["cold_boot_s"] == 77.0


async def test_one_that_is_built_in_the_background_first_measures_nothing(place: Lab) -> None:
    shape = Shape(1, 300)
    async with place.manager(shape_demand_boots=1) as manager:
        await manager.snapshot()
        await manager.run("cold", shape=shape)
        snapshot = await ready(manager, shape=shape)
        assert snapshot.cause is BuildCause.DEMAND
        assert snapshot.metadata["cold_boot_s"] is None
        await manager.run("warm", shape=shape)
        booted = await event(manager, "container.booted")
        assert booted.data["snapshot"] == str(snapshot.id)
        assert booted.data["cold_boot_s"] is None


async def test_a_cold_boot_of_another_host_is_not_kept(place: Lab) -> None:
    async with place.manager() as manager:
        old = await manager.snapshot()
        assert old.metadata["cold_boot_s"] > 0
    place.set(version="2.0")
    async with place.manager() as manager:
        new = await ready(manager, cause=BuildCause.MIGRATION)
        assert new.metadata["cold_boot_s"] is None


async def test_a_rebuild_at_full_speed_measures_its_own(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    starved = Starved(place, monkeypatch)
    async with place.manager(starved) as manager:
        old = await manager.snapshot()
        await manager.store.snapshots.update_metadata(old.id, {"cold_boot_s": 77.0})
        starved.manager = manager
        new = await ready(manager, id=await manager.snapshots.rebuild(old.id))
        assert 0 < new.metadata["cold_boot_s"] < 77.0


# -- weight and pin --------------------------------------------------------------------------------


async def test_of_two_changes_of_weight_and_pin_during_a_rebuild_the_later_one_counts(
    place: Lab,
) -> None:
    async with place.manager() as manager:
        old = await manager.snapshot()
        await manager.snapshots.set_traits(old.id, weight=3, pinned=False)
        place.set(docker_s=600)
        new_id = await manager.snapshots.rebuild(old.id)
        begun = await manager.snapshots.get(new_id)
        assert (begun.weight, begun.pinned) == (3, False)
        await manager.snapshots.set_traits(old.id, weight=5)
        await manager.snapshots.set_traits(new_id, weight=7, pinned=True)
        place.set(docker_s=0)
        new = await ready(manager, id=new_id)
        assert (new.weight, new.pinned) == (7, True)

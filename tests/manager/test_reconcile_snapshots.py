"""Snapshots are reconciled: tried, rebuilt, migrated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest
from tests.support.impatient import impatient_with_docker
from tests.support.invariants import check
from tests.support.managers import IMAGE_NAME, Lab, Manager, image_folder, vmm_pids
from tests.support.rebuilds import event, ready, spoil

from warmboot.host.guest import guest_smoke_test
from warmboot.manager.snapshots import reconcile_snapshots
from warmboot.manager.snapshots.plan_rebuilds import Plan, RetryPolicy, plan_rebuilds
from warmboot.model.container import ContainerSpec
from warmboot.model.journal.event import Event
from warmboot.model.runtime_snapshot import (
    BuildCause,
    HostRequirements,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import FallbackReason

ODD = Shape(1, 300)


# -- the canary ------------------------------------------------------------------------------------


Fault = Callable[[pytest.MonkeyPatch, Lab], None]


def _container_fails(monkeypatch: pytest.MonkeyPatch, place: Lab) -> None:
    bad = ContainerSpec(name="probe", image=guest_smoke_test.SMOKE_TEST.image, command=("false",))
    monkeypatch.setattr(guest_smoke_test, "SMOKE_TEST", bad)


def _restore_fails(monkeypatch: pytest.MonkeyPatch, place: Lab) -> None:
    place.set(fail_restore=True)


def _docker_is_silent(monkeypatch: pytest.MonkeyPatch, place: Lab) -> None:
    impatient_with_docker(monkeypatch)
    place.set(docker_never_ready="restore")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_container_fails, "no container runs"),
        (_restore_fails, "could not be restored"),
        (_docker_is_silent, "could not be restored"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_canary_that_fails_leaves_the_old_one_serving(
    place: Lab,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    words: str,
) -> None:
    async with place.manager() as manager:
        old = await manager.snapshot()
        with monkeypatch.context() as patched:
            fault(patched, place)
            new_id = await manager.snapshots.rebuild(old.id)
            failed = await event(manager, "runtime-snapshot.failed", new_id)
            assert failed.data["error"]["code"] == "canary-failed"
            assert failed.data["replaces"] == str(old.id)
            assert words in failed.data["error"]["brief"]
            assert failed.data["error"]["resolution"]
            first = await manager.snapshots.create(old.runtime_image_id, ODD)
            unhealthy = await manager.snapshot_until(first, SnapshotState.UNHEALTHY)
            assert (unhealthy.error or {})["code"] == "canary-failed"
        place.set(fail_restore=False, docker_never_ready="never")
        await check(manager.running, ready=[old])
        assert vmm_pids(place.storage) == []
        assert (await manager.run()).runtime_snapshot_id == old.id


async def test_until_the_swap_a_boot_has_the_very_snapshot_that_is_rebuilt(place: Lab) -> None:
    async def hold(saga: str, step: str) -> None:
        if (saga, step) == ("build-snapshot", "swap") and armed:
            reached.set()
            await go_on.wait()

    armed, reached, go_on = False, asyncio.Event(), asyncio.Event()
    async with place.manager(hold) as manager:
        old = await manager.snapshot()
        armed = True
        new_id = await manager.snapshots.rebuild(old.id)
        await reached.wait()
        assert (await manager.run("before")).runtime_snapshot_id == old.id
        assert (await manager.snapshots.get(new_id)).state is SnapshotState.CREATING
        go_on.set()
        await manager.snapshot_until(new_id, SnapshotState.READY)
        assert (await manager.run("after")).runtime_snapshot_id == new_id
        await check(manager.running)


async def test_a_vmm_that_dies_under_the_canary_spoils_only_the_new_one(place: Lab) -> None:
    async def shoot(saga: str, step: str) -> None:
        if (saga, step) == ("build-snapshot", "canary-run") and armed:
            place.kill_everything()

    armed = False
    async with place.manager(shoot) as manager:
        old = await manager.snapshot()
        armed = True
        new_id = await manager.snapshots.rebuild(old.id)
        failed = await event(manager, "runtime-snapshot.failed", new_id)
        assert failed.data["error"]["code"] == "canary-failed"
        armed = False
        await check(manager.running, ready=[old])
        assert (await manager.run()).runtime_snapshot_id == old.id


async def test_a_snapshot_says_how_its_canary_went(manager: Manager) -> None:
    snapshot = await manager.snapshot()
    assert snapshot.metadata["canary"]["boot_s"] > 0
    assert snapshot.metadata["canary"]["run_s"] > 0
    assert (snapshot.success_count, snapshot.boots.count) == (0, 0), "it is nobody's boot"


# -- rebuilds by itself ----------------------------------------------------------------------------


async def test_a_rebuild_that_fails_is_tried_again(place: Lab) -> None:
    async with place.manager(rebuild_pause_s=0.3) as manager:
        snapshot = await manager.snapshot()
        place.set(fail_save=True)
        (Path(snapshot.snapshot_path) / "snapshot.state").unlink()
        await manager.run("spoiled")
        told = await event(manager, "runtime-snapshot.retry", snapshot.id)
        assert told.data["failures"] == 1
        place.set(fail_save=False)
        assert (await ready(manager)).cause is BuildCause.UNHEALTHY
        await check(manager.running)


async def test_it_gives_up_at_last_and_names_the_next_command(place: Lab) -> None:
    async with place.manager(rebuild_pause_s=0.01, rebuild_attempts=2) as manager:
        snapshot = await manager.snapshot()
        place.set(fail_save=True)
        (Path(snapshot.snapshot_path) / "snapshot.state").unlink()
        await manager.run("spoiled")
        told = await event(manager, "runtime-snapshot.given-up", snapshot.id)
        assert told.data["failures"] == 2
        assert f"warmboot snapshot rebuild {snapshot.id}" in told.data["error"]["resolution"]
        place.set(fail_save=False)
        await check(manager.running)
    async with place.manager(rebuild_pause_s=0.01, rebuild_attempts=2) as manager:
        await check(manager.running)
        given_up = await manager.snapshots.get(snapshot.id)
        assert (given_up.rebuild_failures, given_up.rebuild_not_before) == (2, None)
        # What the user orders is done all the same.
        new_id = await manager.snapshots.rebuild(snapshot.id)
        assert (await ready(manager)).id == new_id


async def test_the_pause_outlasts_the_manager(place: Lab) -> None:
    async with place.manager(rebuild_pause_s=1000) as manager:
        snapshot = await manager.snapshot()
        place.set(fail_save=True)
        (Path(snapshot.snapshot_path) / "snapshot.state").unlink()
        await manager.run("spoiled")
        await event(manager, "runtime-snapshot.retry", snapshot.id)
        await manager.containers.delete("spoiled", force=True)
    place.set(fail_save=False)
    async with place.manager(rebuild_pause_s=1000) as manager:
        await check(manager.running)
        waiting = await manager.snapshots.get(snapshot.id)
        assert waiting.state is SnapshotState.UNHEALTHY
        assert waiting.rebuild_failures == 1
        assert waiting.rebuild_not_before is not None


async def test_a_first_build_that_failed_by_itself_is_tried_again(place: Lab) -> None:
    async with place.manager(auto_snapshot=True, rebuild_pause_s=0.3) as manager:
        place.set(fail_save=True)
        registered = await manager.services.images.register(
            name=IMAGE_NAME, path=await image_folder()
        )
        assert registered.snapshot_id is not None
        await event(manager, "runtime-snapshot.retry", registered.snapshot_id)
        place.set(fail_save=False)
        snapshot = await ready(manager)
        assert snapshot.replaces in (None, registered.snapshot_id)
        await check(manager.running)


async def test_a_first_build_that_a_user_ordered_is_not(place: Lab) -> None:
    async with place.manager(rebuild_pause_s=0.01) as manager:
        image = await manager.image()
        place.set(fail_save=True)
        snapshot_id = await manager.snapshots.create(image.id, None)
        await manager.snapshot_until(snapshot_id, SnapshotState.UNHEALTHY)
        place.set(fail_save=False)
        await manager.snapshot(shape=ODD)
        assert (await manager.snapshots.get(snapshot_id)).state is SnapshotState.UNHEALTHY


async def test_a_rebuild_that_somebody_deletes_is_not_begun_again_at_once(place: Lab) -> None:
    async with place.manager(rebuild_pause_s=1000) as manager:
        place.set(docker_s=0)
        snapshot = await manager.snapshot()
        place.set(docker_s=5)
        (Path(snapshot.snapshot_path) / "snapshot.state").unlink()
        await manager.create("spoiled")

        async def begun() -> UUID | None:
            for one in await manager.snapshots.list():
                if one.replaces == snapshot.id:
                    return one.id
            return None

        await manager.snapshots.delete(await manager.until(begun, "a rebuild"))
        place.set(docker_s=0)
        await event(manager, "runtime-snapshot.retry", snapshot.id)
        assert [one.id for one in await manager.snapshots.list()] == [snapshot.id]


async def test_with_rebuilds_turned_off_nothing_is_begun(place: Lab) -> None:
    async with place.manager(auto_rebuild=False) as manager:
        snapshot = await spoil(manager)
        await manager.snapshot(shape=ODD)
        assert (await manager.snapshots.get(snapshot.id)).state is SnapshotState.UNHEALTHY


# -- migration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "requirement"),
    [
        ({"version": "2.0"}, "hypervisor_version"),
        ({"cpu_model": "newer"}, "cpu_model"),
        ({"machine": "other"}, "machine"),
    ],
)
async def test_what_does_not_fit_after_a_restart_is_migrated(
    place: Lab, change: dict[str, str], requirement: str
) -> None:
    async with place.manager() as manager:
        old = await manager.snapshot()
        await manager.snapshots.set_traits(old.id, weight=7, pinned=True)
    place.set(**change)
    async with place.manager() as manager:
        told = await event(manager, "runtime-snapshot.unusable", old.id)
        assert told.data["requirement"] == requirement
        new = await ready(manager, cause=BuildCause.MIGRATION)
        assert new.version == 2
        assert (new.weight, new.pinned) == (7, True)
        assert (await manager.snapshots.fit(new)).usable
        assert (await manager.run()).runtime_snapshot_id == new.id
        assert old.id not in [s.id for s in await manager.snapshots.list()]
        await check(manager.running)


async def test_a_host_that_changes_under_a_running_manager_is_noticed_by_a_boot(
    manager: Manager,
) -> None:
    old = await manager.snapshot()
    manager.lab.set(version="2.0", docker_s=0.2)
    fit = await manager.snapshots.fit(old)
    assert (fit.usable, fit.requirement) == (False, "hypervisor_version")
    container = await manager.run()
    assert container.fallback_reason is FallbackReason.VERSION_MISMATCH
    new = await ready(manager, cause=BuildCause.MIGRATION)
    assert new.fc_version == "2.0"
    kinds = {e.kind for e in await manager.events_of(old.id)}
    assert "runtime-snapshot.unhealthy" not in kinds
    assert "runtime-snapshot.boot-failed" not in kinds


async def test_many_that_do_not_fit_are_rebuilt_one_after_the_other(place: Lab) -> None:
    shapes = [Shape(1, 256), Shape(1, 300), Shape(1, 400)]
    async with place.manager() as manager:
        for shape in shapes:
            await manager.snapshot(shape=shape)
    place.set(version="2.0", docker_s=0.1)
    most = 0
    async with place.manager() as manager:

        async def all_migrated() -> bool | None:
            nonlocal most
            found = await manager.snapshots.list()
            most = max(most, sum(s.state is SnapshotState.CREATING for s in found))
            good = [s for s in found if s.state is SnapshotState.READY and s.fc_version == "2.0"]
            return True if sorted(s.shape for s in good) == shapes else None

        await manager.until(all_migrated)
        assert most == 1
        await check(manager.running)


async def test_on_another_host_what_was_given_up_is_tried_again(place: Lab) -> None:
    async with place.manager(rebuild_pause_s=0.01, rebuild_attempts=1) as manager:
        snapshot = await manager.snapshot()
        place.set(fail_save=True)
        (Path(snapshot.snapshot_path) / "snapshot.state").unlink()
        await manager.run("spoiled")
        await event(manager, "runtime-snapshot.given-up", snapshot.id)
        await manager.containers.delete("spoiled", force=True)
    place.set(fail_save=False, version="2.0")
    async with place.manager(rebuild_pause_s=0.01, rebuild_attempts=1) as manager:
        assert (await ready(manager)).fc_version == "2.0"
        changed = await event_of_host(manager)
        assert changed.data["before"]["hypervisor_version"] == "1.0"
        assert changed.data["now"]["hypervisor_version"] == "2.0"


async def test_a_mistake_in_one_look_does_not_end_the_later_ones(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager() as manager:
        old = await manager.snapshot()
    place.set(version="2.0")
    looked: list[None] = []

    def mistaken(
        snapshots: Collection[RuntimeSnapshot],
        here: HostRequirements,
        now: datetime,
        policy: RetryPolicy,
        room_mib: int,
        damaged_images: Collection[UUID],
    ) -> Plan:
        looked.append(None)
        if len(looked) == 1:
            raise KeyError("a mistake")
        return plan_rebuilds(snapshots, here, now, policy, room_mib, damaged_images)

    monkeypatch.setattr(reconcile_snapshots, "plan_rebuilds", mistaken)
    async with place.manager() as manager:
        await manager.snapshot(shape=ODD)  # when that is over, it looks again
        successor = await ready(manager, version=2)  # the old one may be forgotten by then
        assert (successor.shape, successor.fc_version) == (old.shape, "2.0")
        metrics = manager.services.metrics
        assert metrics is not None
        counted = {"work": "look-after-snapshots"}
        registry = metrics.registry
        assert registry.get_sample_value("warmboot_background_failures_total", counted) == 1


async def event_of_host(manager: Manager) -> Event:
    for one in await manager.services.events.list(limit=1000):
        if one.kind == "host.changed":
            return one
    raise AssertionError("host.changed was not told")

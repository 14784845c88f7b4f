"""Warm boots, and every reason for a cold one, as they come about."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, Manager
from tests.support.rebuilds import event, successor_of

from warmboot.host.vm.vm_files import snapshot_disks
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import HostError
from warmboot.model.runtime_snapshot import (
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootMethod, BootPolicy, FallbackReason
from warmboot.model.vm import VmSpec

"""How long a warm boot may take where nothing else is set."""


async def test_a_ready_snapshot_is_used(snapshot: RuntimeSnapshot, manager: Manager) -> None:
    container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert container.boot_method is BootMethod.WARM
    assert container.runtime_snapshot_id == snapshot.id
    assert container.fallback_reason is None
    assert container.boot_s is not None
    stages = [stage.name for stage in container.stages]
    assert [s for s in stages if s in ("restore", "identity", "docker")] == [
        "restore",
        "identity",
        "docker",
    ]
    counted = await manager.snapshots.get(snapshot.id)
    assert (counted.success_count, counted.failure_count) == (1, 0)
    assert counted.last_used_at is not None


async def test_the_guests_own_steps_are_told_within_their_stage(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    container = await manager.run()
    (identity,) = [stage for stage in container.stages if stage.name == "identity"]
    steps = ["entropy", "clock", "machine-id", "hostname", "token"]
    assert [step.name for step in identity.steps] == steps
    assert 0 < sum(step.duration_s for step in identity.steps) <= identity.duration_s
    assert [stage.name for stage in container.stages if stage.steps] == ["identity"]
    events = await manager.events_of(container.id)
    (told,) = [event for event in events if event.kind == "container.booted"]
    names = [stage["name"] for stage in told.data["stages"]]  # what metrics count stages from
    assert names == [stage.name for stage in container.stages][: len(names)]
    assert "identity" in names
    assert not set(names) & set(steps)


async def test_without_a_snapshot_it_boots_cold(manager: Manager) -> None:
    container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert container.boot_method is BootMethod.COLD
    assert container.fallback_reason is FallbackReason.NO_SNAPSHOT
    assert "restore" not in [stage.name for stage in container.stages]


async def test_a_snapshot_in_creation_is_waited_for(manager: Manager) -> None:
    image = await manager.image()
    manager.lab.set(docker_s=600)
    snapshot_id = await manager.snapshots.create(image.id, None)
    container_id = await manager.create()
    await manager.until(lambda: _waits(manager, container_id, snapshot_id))
    manager.lab.set(docker_s=0)
    container = await manager.wait(str(container_id), Until.RUNNING)
    assert container.boot_method is BootMethod.WARM
    assert container.runtime_snapshot_id == snapshot_id


async def test_the_wait_for_a_snapshot_ends(place: Lab) -> None:
    async with place.manager(snapshot_wait_s=0.2) as manager:
        image = await manager.image()
        manager.lab.set(docker_s=60)
        snapshot_id = await manager.snapshots.create(image.id, None)
        creating = await manager.create()

        async def waited() -> bool | None:
            events = await manager.events_of(creating)
            return any(e.data.get("reason") == "snapshot_wait_timeout" for e in events) or None

        await manager.until(waited)
        manager.lab.set(docker_s=0)
        container = await manager.wait(str(creating), Until.RUNNING)
        assert container.boot_method is BootMethod.COLD
        assert container.fallback_reason is FallbackReason.SNAPSHOT_WAIT_TIMEOUT
        assert "0.2 s" in container.fallback_details
        await manager.snapshots.delete(snapshot_id)


async def test_a_build_that_fails_ends_the_wait_at_once(manager: Manager) -> None:
    image = await manager.image()
    manager.lab.set(docker_s=0.3, fail_save=True)
    await manager.snapshots.create(image.id, None)
    container = await manager.run()
    assert container.boot_method is BootMethod.COLD
    assert container.fallback_reason is FallbackReason.SNAPSHOT_UNHEALTHY


async def test_a_cold_boot_can_be_asked_for(snapshot: RuntimeSnapshot, manager: Manager) -> None:
    container = await manager.run(boot=BootPolicy.COLD)
    assert container.boot_method is BootMethod.COLD
    assert container.fallback_reason is FallbackReason.REQUESTED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "2.0"}, FallbackReason.VERSION_MISMATCH),
        ({"cpu_model": "another"}, FallbackReason.HOST_MISMATCH),
        ({"accelerator": "other"}, FallbackReason.HOST_MISMATCH),
        ({"machine": "other"}, FallbackReason.HOST_MISMATCH),
    ],
)
async def test_a_snapshot_of_another_host_is_not_used(
    place: Lab, change: dict[str, str], reason: FallbackReason
) -> None:
    async with place.manager(auto_rebuild=False) as manager:
        snapshot = await manager.snapshot()
        manager.lab.set(**change)
        container = await manager.run()
        assert container.boot_method is BootMethod.COLD
        assert container.fallback_reason is reason
        assert next(iter(change.values())) in container.fallback_details
        untouched = await manager.snapshots.get(snapshot.id)
        assert untouched.state is SnapshotState.READY
        assert untouched.failure_count == 0


async def test_a_shape_that_no_snapshot_has_boots_cold(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    container = await manager.run(shape=Shape(2, 512))
    assert container.fallback_reason is FallbackReason.SHAPE_MISMATCH
    assert container.shape == Shape(2, 512)
    assert "2 vCPU, 512 MiB" in container.fallback_details


async def test_what_runs_is_recorded_not_what_was_asked(manager: Manager) -> None:
    await manager.snapshot(shape=Shape(2, 512))
    container = await manager.run()
    assert container.boot_method is BootMethod.WARM
    assert container.shape == Shape(2, 512)
    assert container.spec.shape is None


async def test_a_version_that_the_host_fails_is_spared_and_another_one_serves(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await manager.snapshot(), await manager.snapshot()
    await manager.snapshots.set_traits(second.id, weight=0)
    make = manager.host.vms.make

    async def fails_for_the_first(*args: Any, **options: Any) -> VmSpec:
        if args[4] == snapshot_disks(first.snapshot_path):
            raise HostError("no overlay disk could be made", details="Input/output error")
        return await make(*args, **options)

    monkeypatch.setattr(manager.host.vms, "make", fails_for_the_first)
    container = await manager.run()
    assert (container.boot_method, container.runtime_snapshot_id) == (BootMethod.WARM, second.id)
    (attempt,) = container.boot_attempts
    assert (attempt.snapshot_id, attempt.reason) == (first.id, FallbackReason.RESTORE_FAILED)
    assert (await manager.snapshots.get(first.id)).failure_count == 0


async def test_a_restore_that_fails_is_counted_and_booted_cold(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    manager.lab.set(fail_restore=True)
    container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert container.boot_method is BootMethod.COLD
    assert container.fallback_reason is FallbackReason.RESTORE_FAILED
    assert container.runtime_snapshot_id is None
    counted = await manager.snapshots.get(snapshot.id)
    assert (counted.success_count, counted.failure_count) == (0, 1)
    assert counted.state is SnapshotState.READY
    assert counted.error is not None


async def test_a_vmm_that_dies_while_it_restores_is_booted_cold(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    manager.lab.set(die_after_s=0.0, die="restore")
    container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert container.fallback_reason is FallbackReason.RESTORE_FAILED


@pytest.mark.parametrize("fault", ["docker_never_ready", "agent_silent"])
async def test_success_is_counted_only_when_docker_has_answered(
    place: Lab, snapshot: RuntimeSnapshot, fault: str
) -> None:
    async with place.manager(warm_boot_timeout_s=4, cold_boot_timeout_s=3600) as manager:
        manager.lab.set(**{fault: "restore"})
        container = await manager.run()
        assert container.state is ContainerState.RUNNING
        assert container.fallback_reason is FallbackReason.DOCKER_NOT_VERIFIED
        counted = await manager.snapshots.get(snapshot.id)
        assert (counted.success_count, counted.failure_count) == (0, 1)


async def test_nothing_is_counted_before_docker_answers(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    manager.lab.set(docker_never_ready="restore")
    container_id = await manager.create()
    await manager.until(lambda: manager.vmm_runs(container_id))
    await asyncio.sleep(0.2)  # it has been restored, and its Docker does not answer
    counted = await manager.snapshots.get(snapshot.id)
    assert (counted.success_count, counted.failure_count) == (0, 0)
    manager.lab.set(docker_never_ready="never")
    container = await manager.wait(str(container_id), Until.RUNNING)
    assert container.boot_method is BootMethod.WARM
    assert (await manager.snapshots.get(snapshot.id)).success_count == 1


async def test_three_failures_in_a_row_make_it_unhealthy_and_rebuild_it(
    place: Lab, snapshot: RuntimeSnapshot
) -> None:
    restores_work = asyncio.Event()

    async def hold(saga: str, step: str) -> None:
        if (saga, step) == ("build-snapshot", "freeze"):
            await restores_work.wait()

    async with place.manager(hold) as manager:
        place.set(fail_restore=True)
        for number in (1, 2):
            await manager.run(f"c{number}")
            assert (await manager.snapshots.get(snapshot.id)).state is SnapshotState.READY
        await manager.run("c3")
        unhealthy = await manager.snapshots.get(snapshot.id)
        assert unhealthy.state is SnapshotState.UNHEALTHY
        assert unhealthy.consecutive_failures == 3
        place.set(fail_restore=False)
        restores_work.set()
        successor = await successor_of(manager, snapshot)
        container = await manager.run("c4")
        assert container.runtime_snapshot_id == successor.id
        kinds = [event.kind for event in await manager.events_of(snapshot.id)]
        assert kinds[-2:] == ["runtime-snapshot.unhealthy", "runtime-snapshot.deleted"]
        await check(manager.running)


async def test_an_unhealthy_snapshot_is_not_used(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    manager.lab.set(fail_restore=True, fail_save=True)  # and its rebuild fails
    for number in range(3):
        await manager.run(f"c{number}")
    await event(manager, "runtime-snapshot.failed")
    manager.lab.set(fail_restore=False, fail_save=False)
    container = await manager.run("last")
    assert container.boot_method is BootMethod.COLD
    assert container.fallback_reason is FallbackReason.SNAPSHOT_UNHEALTHY


async def test_a_success_in_between_starts_the_count_anew(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    for number, fails in enumerate([True, True, False, True, True]):
        manager.lab.set(fail_restore=fails)
        await manager.run(f"c{number}")
    counted = await manager.snapshots.get(snapshot.id)
    assert counted.state is SnapshotState.READY
    assert (counted.success_count, counted.failure_count) == (1, 4)
    assert counted.consecutive_failures == 2


async def test_a_snapshot_deleted_while_it_is_waited_for_ends_the_wait(manager: Manager) -> None:
    image = await manager.image()
    manager.lab.set(docker_s=600)
    snapshot_id = await manager.snapshots.create(image.id, None)
    container_id = await manager.create()
    await manager.until(lambda: _waits(manager, container_id, snapshot_id))
    manager.lab.set(docker_s=0)
    await manager.snapshots.delete(snapshot_id)
    container = await manager.wait(str(container_id), Until.RUNNING)
    assert container.state is ContainerState.RUNNING


async def _waits(manager: Manager, container_id: UUID, snapshot_id: UUID) -> bool:
    events = await manager.events_of(container_id)
    return any(e.data.get("waiting_for") == str(snapshot_id) for e in events)

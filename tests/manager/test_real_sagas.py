"""The real sagas on the simulated hypervisor: each step fails in turn, and is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import pytest
from tests.support.absent import ABSENT
from tests.support.invariants import check
from tests.support.managers import Lab, vmm_pids
from tests.support.prepared_labs import prepare

from warmboot.manager.protocols import Until
from warmboot.manager.snapshots.build_snapshot import BuildSnapshot
from warmboot.manager.vms.boot_vm import BootTimeouts, BootVm
from warmboot.model.container import ContainerState
from warmboot.model.errors import (
    DiskFull,
    GuestError,
    HostError,
    HypervisorError,
    NetworkError,
    NotFound,
    SnapshotDamaged,
)
from warmboot.model.journal.operation import OperationState
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.model.tenants.boot import BootMethod, BootPolicy, FallbackReason
from warmboot.store.repositories.operations import OperationRepository

BOOT = [step.name for step in BootVm(ABSENT, ABSENT, ABSENT, ABSENT, BootTimeouts()).saga.steps]
BUILD = [
    step.name for step in BuildSnapshot(ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, 1.0).saga.steps
]

HOST_ERROR, NO_SPACE = HostError("made to fail"), OSError(28, "No space left")

# What is undone depends on the step, what is told and counted on the error: each of both is seen.
FALLBACKS = [
    (SnapshotDamaged("made to fail"), FallbackReason.SNAPSHOT_DAMAGED, 1),
    (HypervisorError("made to fail"), FallbackReason.RESTORE_FAILED, 1),
    (GuestError("made to fail"), FallbackReason.DOCKER_NOT_VERIFIED, 1),
    (NotFound("made to fail"), FallbackReason.NO_SNAPSHOT, 0),
    (HOST_ERROR, FallbackReason.RESTORE_FAILED, 0),
    (OSError(5, "Input/output error"), FallbackReason.RESTORE_FAILED, 0),
]
AT_EACH_STEP = [(step, *FALLBACKS[0]) for step in BOOT]
EACH_ERROR = [(step, *fallback) for step, fallback in zip(BOOT, FALLBACKS[1:], strict=False)]


class Failing:
    """A hook that raises at a step of a saga, once or always."""

    def __init__(self) -> None:
        self.at: tuple[str, str] | None = None
        self.error: Exception = HostError("made to fail")
        self.times = 1

    async def __call__(self, saga: str, step: str) -> None:
        if (saga, step) == self.at and self.times:
            self.times -= 1
            raise self.error


@pytest.mark.parametrize(
    ("step", "error"), [*((step, HOST_ERROR) for step in BOOT), (BOOT[1], NO_SPACE)], ids=str
)
async def test_a_cold_boot_that_fails_at_any_step_leaves_nothing(
    place: Lab, step: str, error: Exception
) -> None:
    failing = Failing()
    async with place.manager(failing) as manager:
        await manager.image()
        failing.at, failing.error = ("boot-vm", step), error
        container = await manager.run(boot=BootPolicy.COLD)
        assert container.state is ContainerState.FAILED
        assert container.error is not None
        expected = "disk-full" if isinstance(error, OSError) else "host-error"
        assert container.error["code"] == expected
        assert vmm_pids(place.storage) == []
        assert list(manager.host.vms.root.iterdir()) == []
        await check(manager.running)
        await manager.containers.start("web")  # and begun again, it works
        assert (await manager.wait("web", Until.RUNNING)).state is ContainerState.RUNNING


@pytest.mark.parametrize(("step", "error", "reason", "counted"), AT_EACH_STEP + EACH_ERROR, ids=str)
async def test_a_warm_boot_that_fails_at_any_step_goes_on_cold(
    place: Lab, step: str, error: Exception, reason: FallbackReason, counted: int
) -> None:
    failing = Failing()
    (snapshot,) = await prepare(place, snapshot=True)
    async with place.manager(failing, auto_rebuild=False) as manager:
        failing.at, failing.error = ("boot-vm", step), error
        container = await manager.run()
        assert container.state is ContainerState.RUNNING
        assert container.boot_method is BootMethod.COLD
        assert container.fallback_reason is reason
        assert (await manager.snapshots.get(snapshot.id)).failure_count == counted
        await check(manager.running)


async def test_what_a_cold_boot_would_not_help_is_told_at_once(place: Lab) -> None:
    failing, error = Failing(), NetworkError("no slot")
    async with place.manager(failing) as manager:
        snapshot = await manager.snapshot()
        failing.at, failing.error = ("boot-vm", "machine"), error
        container = await manager.run()
        assert container.state is ContainerState.FAILED
        assert (await manager.snapshots.get(snapshot.id)).failure_count == 0
        await check(manager.running, ready=[snapshot])


async def test_no_room_for_a_warm_boot_is_not_the_snapshots_fault(place: Lab) -> None:
    """A cold one needs less: it unpacks no memory."""
    failing = Failing()
    async with place.manager(failing) as manager:
        snapshot = await manager.snapshot()
        failing.at, failing.error = ("boot-vm", "machine"), DiskFull("no room")
        container = await manager.run()
        assert (container.state, container.boot_method) == (
            ContainerState.RUNNING,
            BootMethod.COLD,
        )
        assert "no room" in container.fallback_details
        assert (await manager.snapshots.get(snapshot.id)).failure_count == 0
        await check(manager.running, ready=[snapshot])


@pytest.mark.parametrize(
    ("step", "error"), [*((step, HOST_ERROR) for step in BUILD), (BUILD[1], NO_SPACE)], ids=str
)
async def test_a_build_that_fails_at_any_step_leaves_nothing(
    place: Lab, step: str, error: Exception
) -> None:
    failing = Failing()
    async with place.manager(failing) as manager:
        image = await manager.image()
        failing.at, failing.error = ("build-snapshot", step), error
        snapshot_id = await manager.snapshots.create(image.id, None)
        snapshot = await manager.snapshot_until(
            snapshot_id, SnapshotState.UNHEALTHY, SnapshotState.READY
        )
        assert snapshot.state is SnapshotState.UNHEALTHY
        assert list(manager.host.snapshots.root.glob("*/*")) == []
        assert vmm_pids(place.storage) == []
        await check(manager.running)
        rebuilt = await manager.snapshots.rebuild(snapshot_id)
        await manager.snapshot_until(rebuilt, SnapshotState.READY)
        await check(manager.running)


@pytest.mark.parametrize("step", BUILD)
async def test_a_rebuild_that_fails_at_any_step_leaves_the_old_one(place: Lab, step: str) -> None:
    failing = Failing()
    (old,) = await prepare(place, snapshot=True)
    async with place.manager(failing) as manager:
        failing.at = ("build-snapshot", step)
        await manager.snapshots.rebuild(old.id)
        await check(manager.running, ready=[old])
        assert [s.id for s in await manager.snapshots.list(include_deleted=True)] == [old.id]
        assert (await manager.run()).runtime_snapshot_id == old.id


@pytest.mark.parametrize("work", ["boot", "build"])
async def test_every_step_and_every_undo_may_be_repeated(
    place: Lab, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """As the journal promises: an undo copes with a step that did all, a part or nothing."""
    undone: list[str] = []

    async def hook(saga: str, step: str) -> None:
        if saga == {"boot": "boot-vm", "build": "build-snapshot"}[work] and armed:
            last = (BOOT if work == "boot" else BUILD)[-1]
            if step == last:
                raise HostError("at the very end")

    armed = False
    async with place.manager(hook) as manager:
        image = await manager.image()
        armed = True
        real = type(manager.store.operations).set_state

        async def never_undone(
            self: OperationRepository,
            operation_id: UUID,
            state: OperationState,
            error: Mapping[str, object] | None = None,
        ) -> None:
            if state is OperationState.UNDONE:
                undone.append(str(state))
                raise HostError("killed here")
            await real(self, operation_id, state, error)

        monkeypatch.setattr(type(manager.store.operations), "set_state", never_undone)
        if work == "boot":
            await manager.create(boot=BootPolicy.COLD)
        else:
            await manager.snapshots.create(image.id, None)

        async def tried() -> bool | None:
            return True if undone else None

        await manager.until(tried)
        monkeypatch.undo()
    # The journal says that the undo was not finished: the next manager does it all once more.
    armed = False
    async with place.manager() as manager:
        await check(manager.running)

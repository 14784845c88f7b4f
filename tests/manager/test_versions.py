"""Several versions of a snapshot side by side: chosen by weight, each a fallback for the others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, Manager

from warmboot.manager.protocols import Until
from warmboot.manager.tenants import warm_boot
from warmboot.model.errors import Conflict, HypervisorError, InvalidRequest, NotFound
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.tenants.boot import BootMethod, FallbackReason


async def versions(manager: Manager, *weights: float) -> list[RuntimeSnapshot]:
    """Ready ones, as many as there are weights, the oldest first."""
    made = []
    for weight in weights:
        snapshot = await manager.snapshot()
        made.append(await manager.snapshots.set_traits(snapshot.id, weight=weight))
    assert [one.version for one in made] == list(range(1, len(weights) + 1))
    return made


def spoil(snapshot: RuntimeSnapshot) -> None:
    (Path(snapshot.snapshot_path) / "snapshot.state").unlink()


async def test_weights_decide_which_version_serves(manager: Manager) -> None:
    first, second = await versions(manager, 1, 0)
    for number in range(3):
        container = await manager.run(f"a{number}")
        assert (container.runtime_snapshot_id, container.snapshot_version) == (first.id, 1)
    await manager.snapshots.set_traits(second.id, weight=1)
    await manager.snapshots.set_traits(first.id, weight=0)
    for number in range(3):
        assert (await manager.run(f"b{number}")).snapshot_version == 2


async def test_with_equal_weights_the_draw_decides(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await versions(manager, 100, 100)
    draws = (0.0, 0.75, 0.25, 0.5, 0.49, 0.99)
    drawing = SimpleNamespace(random=iter(draws).__next__)
    monkeypatch.setattr(warm_boot, "random", drawing)
    served = [(await manager.run(f"c{n}")).snapshot_version for n in range(len(draws))]
    assert served == [2, 1, 2, 1, 2, 1], "the newest has the lower half"


async def test_without_any_weight_the_newest_serves(manager: Manager) -> None:
    await versions(manager, 0, 0)
    assert (await manager.run()).snapshot_version == 2


async def test_another_version_is_tried_before_a_cold_boot(manager: Manager) -> None:
    first, second = await versions(manager, 0, 1)
    spoil(second)
    container = await manager.run()
    assert (container.boot_method, container.snapshot_version) == (BootMethod.WARM, 1)
    assert container.fallback_reason is None
    (attempt,) = container.boot_attempts
    assert (attempt.snapshot_id, attempt.version) == (second.id, 2)
    assert attempt.reason is FallbackReason.SNAPSHOT_DAMAGED
    assert "snapshot.state" in attempt.details
    assert (await manager.snapshots.get(first.id)).success_count == 1
    await check(manager.running, ready=[first])


async def test_when_every_version_fails_it_boots_cold_and_says_what_failed(place: Lab) -> None:
    async with place.manager(auto_rebuild=False) as manager:
        await versions(manager, 1, 2)
        place.set(fail_restore=True)
        container = await manager.run()
        assert container.boot_method is BootMethod.COLD
        assert container.fallback_reason is FallbackReason.RESTORE_FAILED
        assert sorted(attempt.version for attempt in container.boot_attempts) == [1, 2]
        assert container.snapshot_version is None


async def test_a_boot_tries_three_versions_at_most(place: Lab) -> None:
    async with place.manager(auto_rebuild=False) as manager:
        made = await versions(manager, 1, 1, 1, 1)
        place.set(fail_restore=True)
        container = await manager.run()
        assert container.boot_method is BootMethod.COLD
        assert len({attempt.version for attempt in container.boot_attempts}) == 3
        failures = [(await manager.snapshots.get(one.id)).failure_count for one in made]
        assert sorted(failures) == [0, 1, 1, 1]


async def test_a_restore_that_fails_because_the_host_changed_is_no_failure(place: Lab) -> None:
    """The hypervisor is exchanged between the choice and the restore."""

    async def exchange(saga: str, step: str) -> None:
        if (saga, step) == ("boot-vm", "start") and armed:
            place.set(version="2.0")
            raise HypervisorError("the state is of another version")

    armed = False
    async with place.manager(exchange, auto_rebuild=False) as manager:
        snapshot = await manager.snapshot()
        armed = True
        container_id = await manager.create()

        async def tried() -> bool | None:
            return bool((await manager.store.containers.get(container_id)).boot_attempts) or None

        await manager.until(tried)
        armed = False
        container = await manager.wait(str(container_id), Until.RUNNING)
        (attempt,) = container.boot_attempts
        assert attempt.reason is FallbackReason.VERSION_MISMATCH
        counted = await manager.snapshots.get(snapshot.id)
        assert (counted.state, counted.failure_count) == (SnapshotState.READY, 0)


async def test_statistics_are_kept_per_version(manager: Manager) -> None:
    first, second = await versions(manager, 1, 0)
    for number in range(3):
        await manager.run(f"c{number}")
    counted = await manager.snapshots.get(first.id)
    assert (counted.success_count, counted.boots.count) == (3, 3)
    assert counted.boots.median_s is not None
    assert 0 < counted.boots.median_s < 20
    assert (await manager.snapshots.get(second.id)).boots.count == 0


async def test_a_container_that_starts_again_forgets_its_attempts(manager: Manager) -> None:
    _, second = await versions(manager, 0, 1)
    spoil(second)
    await manager.run()
    manager.lab.kill_everything()

    async def lost() -> bool | None:
        return (await manager.containers.get("web")).state == "failed" or None

    await manager.until(lost)
    await manager.containers.start("web")
    container = await manager.wait("web", Until.RUNNING)
    assert (container.boot_attempts, container.snapshot_version) == ((), None)


async def test_pins_and_weights_of_what_is_not_there(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    await manager.run()  # it holds the snapshot's files
    await manager.snapshots.delete(snapshot.id)
    with pytest.raises(Conflict, match="deleted"):
        await manager.snapshots.set_traits(snapshot.id, pinned=True)
    with pytest.raises(NotFound):
        await manager.snapshots.set_traits(uuid4(), weight=1)
    for weight in (-1.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(InvalidRequest, match="is not a weight"):
            await manager.snapshots.set_traits(snapshot.id, weight=weight)


async def test_a_change_is_told(snapshot: RuntimeSnapshot, manager: Manager) -> None:
    await manager.snapshots.set_traits(snapshot.id, weight=3, pinned=True)
    last = (await manager.events_of(snapshot.id))[-1]
    assert last.kind == "runtime-snapshot.changed"
    assert last.data == {"weight": 3.0, "pinned": True}

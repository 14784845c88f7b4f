"""How much of the machine a build gets: one that somebody waits for, and one in the background."""

from __future__ import annotations

import contextlib
import os

import pytest
from tests.support.managers import Manager, vmm_pids

from warmboot.model.runtime_snapshot import SnapshotState


@pytest.fixture(autouse=True)
def builds_give_way() -> None:
    """Here they do."""


async def test_a_rebuild_gives_way_and_what_somebody_waits_for_does_not(manager: Manager) -> None:
    image = await manager.image()
    manager.lab.set(docker_s=0.5)
    seen: set[int] = set()

    async def is_ready() -> bool | None:
        policies = _policies(manager)
        if (await manager.snapshots.get(snapshot_id)).state is SnapshotState.READY:
            return True
        seen.update(policies)
        return None

    async def gives_way() -> bool | None:
        return True if os.SCHED_IDLE in _policies(manager) else None  # set just after its start

    snapshot_id = await manager.snapshots.create(image.id, None)
    await manager.until(is_ready, "the snapshot is ready")
    assert seen == {os.SCHED_OTHER}
    await manager.until(lambda: _none_run(manager), "the builder has ended")
    manager.lab.set(docker_s=600)
    new_id = await manager.snapshots.rebuild(snapshot_id)
    await manager.until(gives_way, "the rebuild's builder gives way")
    manager.lab.set(docker_s=0)
    await manager.snapshot_until(new_id, SnapshotState.READY)


def _policies(manager: Manager) -> set[int]:
    """How the VMMs that run now are scheduled; one may end while it is looked at."""
    policies: set[int] = set()
    for pid in vmm_pids(manager.lab.storage):
        with contextlib.suppress(ProcessLookupError):
            policies.add(os.sched_getscheduler(pid))
    return policies


async def _none_run(manager: Manager) -> bool | None:
    return None if vmm_pids(manager.lab.storage) else True

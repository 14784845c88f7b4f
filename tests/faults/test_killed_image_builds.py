"""``kill -9`` while an image is prepared: what was ready serves, and what was begun is done."""

from __future__ import annotations

import pytest
from tests.faults.test_killed_manager import Die, die, place, reaper
from tests.support.absent import ABSENT
from tests.support.invariants import check
from tests.support.managers import Lab
from tests.support.prepared_labs import prepare

from warmboot.manager.snapshots.build_image_snapshot import BuildImageSnapshot
from warmboot.model.runtime_snapshot import Depth, SnapshotState

__all__ = ["die", "place", "reaper"]

POINTS = [
    *(("build-image-snapshot", step.name) for step in BuildImageSnapshot(*[ABSENT] * 6).saga.steps),
    ("vm", "freeze", "after"),
    ("files", "publish_moment", "after"),
    ("events", "append", "before", "runtime-snapshot.ready"),
]


@pytest.mark.parametrize("at", POINTS, ids=str)
async def test_killed_while_an_image_is_prepared(place: Lab, die: Die, at: tuple[str, ...]) -> None:
    ready = await prepare(place, snapshot=True)
    await die("prepare_image", at)
    async with place.manager() as manager:
        await check(manager.running, ready=ready)
        (made,) = [s for s in await manager.snapshots.list() if s.depth is Depth.IMAGE]
        assert made.state is SnapshotState.READY
        assert await manager.store.snapshots.leases(ready[0].id) == (str(made.id),)
        container = await manager.run()
        assert container.runtime_snapshot_id == made.id
        await manager.containers.delete("web", force=True)

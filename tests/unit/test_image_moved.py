"""A prepared image whose tag is of another image by now."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.support.absent import ABSENT

from warmboot.manager.snapshots.plan_rebuilds import RetryPolicy, plan_rebuilds
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.model.runtime_snapshot import (
    IMAGE,
    BuildCause,
    Depth,
    HostRequirements,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.shapes import Shape

HERE = HostRequirements("qemu", "1", "tcg", "q35", "max")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RETRY = RetryPolicy(attempts=5)
VERSION = RuntimeSnapshot(
    id=UUID(int=1),
    runtime_image_id=UUID(int=2),
    snapshot_path=Path("/nowhere"),
    state=SnapshotState.READY,
    hypervisor="qemu",
    fc_version="1",
    shape=Shape(1, 512),
    created_at=NOW,
)


class Scene:
    """Implements what is asked of the store and the events."""

    def __init__(self, row: RuntimeSnapshot) -> None:
        self.snapshots, self.row = self, row
        self.told = list[str]()

    async def get(self, _: UUID) -> RuntimeSnapshot:
        return self.row

    async def set_state(self, _: UUID, new: SnapshotState, **changes: Any) -> None:
        self.row = replace(self.row, state=new, **changes)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async def emit(kind: str, *_: object, **__: object) -> None:
            self.told.append(kind)

        yield emit


async def test_it_is_rebuilt_though_rebuilds_for_another_cause_were_given_up() -> None:
    """Its registry was away when the version that it lies on was rebuilt."""
    scene = Scene(
        replace(
            VERSION,
            id=UUID(int=3),
            depth=Depth.IMAGE,
            parent_id=UUID(int=9),
            metadata={
                IMAGE: "redis:latest",
                "requires": {name: getattr(HERE, name) for name in HERE.__slots__},
            },
            rebuild_failures=RETRY.attempts,
        )
    )
    assert plan_rebuilds([VERSION, scene.row], HERE, NOW, RETRY).due == ()
    parts: Any = scene
    snapshots = RuntimeSnapshots(
        *(parts, ABSENT, parts, ABSENT, ABSENT, ABSENT, ABSENT),
        default_shape=VERSION.shape,
        max_active=1,
        max_images=1,
    )
    await snapshots.image_moved(scene.row.id, "sha256:other")
    assert scene.told == ["runtime-snapshot.unhealthy"]
    (due,) = plan_rebuilds([VERSION, scene.row], HERE, NOW, RETRY).due
    assert (due.snapshot.id, due.cause) == (scene.row.id, BuildCause.UNHEALTHY)

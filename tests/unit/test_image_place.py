"""What is prepared already does not go for an image that cannot be prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from tests.support.absent import ABSENT

from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.model.errors import Conflict
from warmboot.model.runtime_snapshot import (
    IMAGE,
    Depth,
    HostRequirements,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.shapes import Shape

VERSION = RuntimeSnapshot(
    id=UUID(int=1),
    runtime_image_id=UUID(int=2),
    snapshot_path=Path("/nowhere"),
    state=SnapshotState.READY,
    hypervisor="qemu",
    fc_version="1",
    shape=Shape(1, 512),
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
PREPARED = replace(
    VERSION, id=UUID(int=3), depth=Depth.IMAGE, parent_id=VERSION.id, metadata={IMAGE: "redis:7"}
)


class Scene:
    """Implements what is asked of the store, the host and the collector."""

    def __init__(self, version: RuntimeSnapshot) -> None:
        self.snapshots, self.images, self.storage = self, self, self
        self.version, self.asked_for_room = version, 0

    def capacity(self) -> Any:
        return SimpleNamespace(check=lambda *_: None)

    async def get(self, image_id: UUID) -> Any:
        return SimpleNamespace(id=image_id)

    async def with_image(self, *_: object) -> Sequence[RuntimeSnapshot]:
        return ()

    async def for_image(self, *_: object) -> Sequence[RuntimeSnapshot]:
        return (self.version,)

    async def list(self) -> Sequence[RuntimeSnapshot]:
        return (self.version, PREPARED)

    async def ensure_room(self) -> None: ...

    async def probe(self) -> Any:
        here = HostRequirements("qemu", "1", "tcg", "q35", "max")
        return SimpleNamespace(host=here, capabilities=SimpleNamespace(freezes=True))

    async def make_room(self, _: Depth) -> None:
        self.asked_for_room += 1


@pytest.mark.parametrize(
    ("state", "told", "asked"),
    [
        (SnapshotState.UNHEALTHY, "no runtime snapshot of", 0),
        (SnapshotState.READY, "1 images are prepared already", 1),
    ],
)
async def test_without_a_version_to_begin_from_none_is_removed(
    state: SnapshotState, told: str, asked: int
) -> None:
    scene = Scene(replace(VERSION, state=state))
    parts: Any = scene
    snapshots = RuntimeSnapshots(
        *(parts, parts, ABSENT, ABSENT, ABSENT, ABSENT, parts),
        default_shape=VERSION.shape,
        max_active=1,
        max_images=1,
    )
    with pytest.raises(Conflict, match=told):
        await snapshots.prepare_image("nginx", VERSION.runtime_image_id, None)
    assert scene.asked_for_room == asked

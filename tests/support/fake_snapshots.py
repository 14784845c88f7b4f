"""Runtime images and their snapshots, in memory: building takes a moment and makes no file."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

from tests.support.fake_events import DEFAULT_SHAPE, FakeEvents, now

from warmboot.docker.references import with_tag
from warmboot.manager.protocols import (
    Registered,
)
from warmboot.model.errors import (
    Conflict,
    IllegalTransition,
    InUse,
    InvalidRequest,
    NameTaken,
    NotFound,
    WarmbootError,
)
from warmboot.model.runtime_image import FileSum, RuntimeImage, RuntimeImageManifest
from warmboot.model.runtime_snapshot import (
    IMAGE,
    SNAPSHOT_TRANSITIONS,
    Depth,
    HostRequirements,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.shapes import Shape
from warmboot.model.snapshot_fit import Fit, fit_of


class FakeImages:
    def __init__(self, events: FakeEvents) -> None:
        self.rows: dict[UUID, RuntimeImage] = {}
        self.used_by: set[UUID] = set()
        self.snapshots: FakeSnapshots | None = None
        """Set where registering an image is to begin its snapshot."""
        self._events = events

    async def register(
        self,
        *,
        name: str,
        path: Path | None = None,
        kernel: Path | None = None,
        rootfs: Path | None = None,
        initrd: Path | None = None,
        build_snapshot: bool | None = None,
    ) -> Registered:
        image = await self._register(name, path or kernel)
        if build_snapshot is False or self.snapshots is None:
            return Registered(image, note="no snapshot was asked for")
        for row in self.snapshots.rows.values():
            if row.runtime_image_id == image.id:
                return Registered(image, row.id)
        return Registered(image, await self.snapshots.create(image.id, None), begun=True)

    async def _register(self, name: str, found: Path | None) -> RuntimeImage:
        if found is None or not await asyncio.to_thread(os.path.exists, found):
            raise InvalidRequest(
                f"{found} is not there", resolution="build one with: warmboot runtime build"
            )
        digest = "sha256:" + hashlib.sha256(str(found).encode()).hexdigest()
        for image in self.rows.values():
            if image.digest == digest:
                return image
            if image.name == name:
                raise NameTaken(f"there is a runtime image {name!r}")
        sums = {"kernel": FileSum(9_000_000, "ab" * 32), "rootfs": FileSum(480_000_000, "cd" * 32)}
        manifest = RuntimeImageManifest(digest, sums, "console=hvc0 root=/dev/vda", "1")
        image = RuntimeImage(uuid4(), name, digest, found, manifest, now())
        self.rows[image.id] = image
        self._events.add("runtime-image.registered", image.id)
        return image

    async def list(self) -> Sequence[RuntimeImage]:
        return list(self.rows.values())

    async def stored_bytes(self, image: RuntimeImage) -> int:
        return 37 << 20

    async def get(self, image_id: UUID) -> RuntimeImage:
        try:
            return self.rows[image_id]
        except KeyError:
            raise NotFound(
                f"no runtime image {image_id}", resolution="list them with: warmboot runtime ls"
            ) from None

    async def delete(self, image_id: UUID) -> None:
        await self.get(image_id)
        if image_id in self.used_by:
            raise InUse("the runtime image has snapshots", resolution="remove those first")
        del self.rows[image_id]


class FakeSnapshots:
    def __init__(self, events: FakeEvents, images: FakeImages) -> None:
        self.rows: dict[UUID, RuntimeSnapshot] = {}
        self.leased: set[UUID] = set()
        self.build_s = 0.02
        self.build_fails: WarmbootError | None = None
        self._events, self._images = events, images
        self._tasks: set[asyncio.Task[None]] = set()

    async def prepare_image(
        self, reference: str, runtime_image_id: UUID | None, shape: Shape | None
    ) -> UUID:
        image_id = runtime_image_id or next(iter(self._images.rows), uuid4())
        name = with_tag(reference)
        there = [row for row in self.rows.values() if row.image == name]
        made = await self.create(image_id, shape, there[0].id if there else None)
        self.rows[made] = replace(
            self.rows[made], depth=Depth.IMAGE, version=0, metadata={IMAGE: name}
        )
        return made

    async def create(
        self, runtime_image_id: UUID, shape: Shape | None, replaces: UUID | None = None
    ) -> UUID:
        image = await self._images.get(runtime_image_id)
        self._images.used_by.add(image.id)
        snapshot = RuntimeSnapshot(
            id=uuid4(),
            runtime_image_id=image.id,
            snapshot_path=Path(f"/srv/fc/runtime-snapshots/{image.id}"),
            state=SnapshotState.CREATING,
            hypervisor="simulated",
            fc_version="1.0",
            shape=shape or DEFAULT_SHAPE,
            created_at=now(),
            replaces=replaces,
            version=1 + sum(row.runtime_image_id == image.id for row in self.rows.values()),
        )
        self.rows[snapshot.id] = snapshot
        self._events.add("runtime-snapshot.creating", snapshot.id)
        task = asyncio.create_task(self._build(snapshot.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return snapshot.id

    async def _build(self, snapshot_id: UUID) -> None:
        await asyncio.sleep(self.build_s)
        row = self.rows[snapshot_id]
        if row.state is SnapshotState.CREATING and self.build_fails is not None:
            error = self.build_fails.as_dict()
            self.rows[snapshot_id] = replace(row, state=SnapshotState.UNHEALTHY, error=error)
            self._events.add("runtime-snapshot.failed", snapshot_id, error=error)
            if row.replaces is not None:  # deleted, and collected at once
                del self.rows[snapshot_id]
        elif row.state is SnapshotState.CREATING:
            sizes = {"size_bytes": 900_000_000, "mem_size_bytes": 512_000_000, "compressed": False}
            metadata = {**row.metadata, **sizes}
            self.rows[snapshot_id] = replace(row, state=SnapshotState.READY, metadata=metadata)
            if row.depth is Depth.IMAGE and row.replaces is not None:
                del self.rows[row.replaces]
            self._events.add("runtime-snapshot.ready", snapshot_id)

    async def list(self, *, include_deleted: bool = False) -> Sequence[RuntimeSnapshot]:
        return [
            row
            for row in self.rows.values()
            if include_deleted or row.state is not SnapshotState.DELETED
        ]

    async def get(self, snapshot_id: UUID) -> RuntimeSnapshot:
        try:
            return self.rows[snapshot_id]
        except KeyError:
            raise NotFound(
                f"no runtime snapshot {snapshot_id}",
                resolution="list them with: warmboot snapshot ls",
            ) from None

    async def delete(self, snapshot_id: UUID) -> None:
        row = await self.get(snapshot_id)
        SNAPSHOT_TRANSITIONS.check(row.state, SnapshotState.DELETED)
        self.rows[snapshot_id] = replace(row, state=SnapshotState.DELETED)
        self._events.add("runtime-snapshot.deleted", snapshot_id)

    async def set_traits(
        self, snapshot_id: UUID, *, weight: float | None = None, pinned: bool | None = None
    ) -> RuntimeSnapshot:
        row = await self.get(snapshot_id)
        if row.state is SnapshotState.DELETED:
            raise Conflict("the snapshot was deleted", resolution="create another one")
        changed = replace(
            row,
            weight=row.weight if weight is None else weight,
            pinned=row.pinned if pinned is None else pinned,
        )
        self.rows[snapshot_id] = changed
        return changed

    async def fit(self, snapshot: RuntimeSnapshot) -> Fit:
        return fit_of(snapshot, HostRequirements("simulated", "1.0", "none", "simulated", "any"))

    async def rebuild(self, snapshot_id: UUID) -> UUID:
        row = await self.get(snapshot_id)
        if row.state is SnapshotState.DELETED:
            raise Conflict("the snapshot is deleted", resolution="create another one")
        return await self.create(row.runtime_image_id, row.shape, replaces=row.id)


class FakeForms:
    """At once; ``error`` is told as a real one would be."""

    def __init__(self, events: FakeEvents, snapshots: FakeSnapshots) -> None:
        self.error: WarmbootError | None = None
        self._events, self._snapshots = events, snapshots

    async def compress(self, snapshot_id: UUID) -> None:
        await self._change(snapshot_id, "compress", compressed=True)

    async def unpack(self, snapshot_id: UUID) -> None:
        await self._change(snapshot_id, "unpack", compressed=False)

    async def _change(self, snapshot_id: UUID, verb: str, *, compressed: bool) -> None:
        row = await self._snapshots.get(snapshot_id)
        if row.state is not SnapshotState.READY:
            raise IllegalTransition(f"the snapshot is {row.state}", resolution="wait")
        if self.error is not None:
            error = self.error.as_dict()
            self._events.add(f"runtime-snapshot.{verb}-failed", snapshot_id, error=error)
            return
        form = {"compressed": compressed, "compressed_size_bytes": 1000 if compressed else None}
        self._snapshots.rows[snapshot_id] = replace(row, metadata={**row.metadata, **form})
        self._events.add(f"runtime-snapshot.{verb}ed", snapshot_id)

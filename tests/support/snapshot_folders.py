"""Folders of small snapshots, being made and published."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.model.runtime_image import RuntimeImage, RuntimeImageManifest
from warmboot.model.runtime_snapshot import (
    DISK_FILE,
    MEMORY_FILE,
    ROOTFS_FILE,
    STATE_FILE,
    HostRequirements,
    SnapshotManifest,
)
from warmboot.model.shapes import Shape

PARTS = (MEMORY_FILE, STATE_FILE, ROOTFS_FILE, DISK_FILE)
IMAGE_ID = UUID(int=7)


def make_image(folder: Path) -> RuntimeImage:
    folder.mkdir()
    (folder / "rootfs.ext4").write_bytes(b"root" * 1000)
    (folder / "disk.ext4").write_bytes(b"disk" * 1000)
    manifest = RuntimeImageManifest("sha256:00", {}, "quiet", "1")
    return RuntimeImage(IMAGE_ID, "image", "sha256:00", folder, manifest, datetime.now(UTC))


def manifest_for(snapshot_id: UUID) -> SnapshotManifest:
    return SnapshotManifest(
        snapshot_id=snapshot_id,
        image_digest="sha256:00",
        agent_version="1",
        shape=Shape(1, 256),
        requires=HostRequirements("simulated", "1.0", "none", "simulated", "simulated"),
        files={},
        created_at=datetime.now(UTC),
        cmdline="quiet",
    )


async def fill(files: SnapshotFiles, image: RuntimeImage, snapshot_id: UUID) -> Path:
    folder = await files.begin(image, snapshot_id)
    (folder / MEMORY_FILE).write_bytes(b"memory" * 1000)
    (folder / STATE_FILE).write_bytes(b"state")
    return folder


async def published(files: SnapshotFiles, image: RuntimeImage) -> Path:
    snapshot_id = uuid4()
    folder = await fill(files, image, snapshot_id)
    await files.publish(folder, manifest_for(snapshot_id))
    return files.path(IMAGE_ID, snapshot_id)

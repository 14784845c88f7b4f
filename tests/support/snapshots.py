"""Snapshot folders with small contents, as ``SnapshotFiles`` publishes them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
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

T = TypeVar("T")

IMAGE_ID = UUID(int=7)
MEMORY = b"kernel" * 1000 + bytes(3 << 20) + os.urandom(10_000) + bytes(5000)
SMALL_MEMORY = b"memory" * 1000
PARTS = (MEMORY_FILE, STATE_FILE, ROOTFS_FILE, DISK_FILE)


async def here(function: Callable[..., T], *arguments: Any) -> T:
    """Work that has time, done at once, and in this process: system calls can be made to fail."""
    return await asyncio.to_thread(function, *arguments)


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


async def fill(
    files: SnapshotFiles, image: RuntimeImage, snapshot_id: UUID, memory: bytes = SMALL_MEMORY
) -> Path:
    folder = await files.begin(image, snapshot_id)
    (folder / MEMORY_FILE).write_bytes(memory)
    (folder / STATE_FILE).write_bytes(b"state")
    return folder


async def published(files: SnapshotFiles, image: RuntimeImage) -> Path:
    return await publish(files, image, SMALL_MEMORY)


async def publish(files: SnapshotFiles, image: RuntimeImage, memory: bytes = MEMORY) -> Path:
    """A whole snapshot with that memory, stored plain; its folder."""
    snapshot_id = uuid4()
    folder = await fill(files, image, snapshot_id, memory)
    await files.publish(folder, manifest_for(snapshot_id))
    return files.path(IMAGE_ID, snapshot_id)


def flip(path: Path, at: int = 100) -> None:
    """One bit, in place, by somebody who may."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    path.chmod(mode)

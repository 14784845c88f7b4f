"""A runtime snapshot: a VM of a runtime image, frozen with Docker ready.

creating ──▶ ready ⇄ unhealthy ◀── creating (the build failed)
    │          │         │
    └──────────┴─────────┴──▶ deleted
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

from warmboot.model.runtime_image import FileSum
from warmboot.model.shapes import Shape
from warmboot.model.transitions import Transitions

MEMORY_FILE = "snapshot.mem"
STATE_FILE = "snapshot.state"
ROOTFS_FILE = "rootfs.ext4"
DISK_FILE = "disk.ext4"
METADATA_FILE = "metadata.json"

UNHEALTHY_AFTER = 3
"""Consecutive failures that make a snapshot unhealthy."""


class SnapshotState(StrEnum):
    CREATING = "creating"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    DELETED = "deleted"


SNAPSHOT_TRANSITIONS = Transitions(
    "runtime snapshot",
    {
        SnapshotState.CREATING: frozenset(
            {SnapshotState.READY, SnapshotState.UNHEALTHY, SnapshotState.DELETED}
        ),
        SnapshotState.READY: frozenset({SnapshotState.UNHEALTHY, SnapshotState.DELETED}),
        SnapshotState.UNHEALTHY: frozenset({SnapshotState.READY, SnapshotState.DELETED}),
        SnapshotState.DELETED: frozenset(),
    },
)


@dataclass(frozen=True, slots=True)
class HostRequirements:
    """What a snapshot needs of the machine that restores it. All must be equal there."""

    hypervisor: str
    hypervisor_version: str
    accelerator: str
    machine: str
    cpu_model: str


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """What stands in a snapshot folder's ``metadata.json``."""

    snapshot_id: UUID
    image_digest: str
    agent_version: str
    shape: Shape
    requires: HostRequirements
    files: Mapping[str, FileSum]
    created_at: datetime
    cmdline: str
    uid: int = 0


@dataclass(frozen=True, slots=True)
class RuntimeSnapshot:
    """A row of ``runtime_snapshots``. ``fc_version`` is the hypervisor's version (spec's name).

    ``failure_count`` counts all failures, ``consecutive_failures`` those since the last success.
    ``replaces`` is the snapshot that this one, a rebuild, will take the place of.
    ``error`` says why the last build or boot failed.
    """

    id: UUID
    runtime_image_id: UUID
    snapshot_path: Path
    state: SnapshotState
    hypervisor: str
    fc_version: str
    shape: Shape
    created_at: datetime
    success_count: int = 0
    failure_count: int = 0
    consecutive_failures: int = 0
    last_used_at: datetime | None = None
    replaces: UUID | None = None
    error: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def unmet_requirement(needed: HostRequirements, here: HostRequirements) -> str | None:
    """Why a snapshot cannot be restored here, in words; ``None`` when it can."""
    for name, label in (
        ("hypervisor", "hypervisor"),
        ("hypervisor_version", "hypervisor version"),
        ("accelerator", "accelerator"),
        ("machine", "machine type"),
        ("cpu_model", "CPU model"),
    ):
        want, have = getattr(needed, name), getattr(here, name)
        if want != have:
            return f"{label} mismatch: the snapshot needs {want}, this host has {have}"
    return None

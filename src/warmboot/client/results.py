"""The client's result types: frozen, typed, with the JSON response in ``raw``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Shape:
    """Processors and memory of a VM."""

    vcpus: int
    memory_mib: int

    def __str__(self) -> str:
        return f"{self.vcpus} vCPU, {self.memory_mib} MiB"


@dataclass(frozen=True, slots=True)
class RuntimeImage:
    """A runtime image; ``damage`` says what is wrong with its files."""

    id: str
    name: str
    digest: str
    path: str
    created_at: datetime
    damage: Mapping[str, Any] | None = field(default=None, kw_only=True)
    stored_bytes: int | None = field(default=None, kw_only=True)
    """What it occupies on the disk; ``None`` if the manager is older and does not say so."""
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """The size of the files, with the holes in them."""
        return sum(entry["size_bytes"] for entry in self.raw["files"].values())


@dataclass(frozen=True, slots=True)
class Registered:
    """``id`` is the image's. ``note`` says why there is no snapshot."""

    id: str
    snapshot_id: str | None
    snapshot_begun: bool
    note: str


@dataclass(frozen=True, slots=True)
class BootSeconds:
    """Seconds of good warm boots."""

    median: float | None
    mean: float | None


@dataclass(frozen=True, slots=True)
class SnapshotStats:
    """Statistics of one version; ``boot_s`` is that of its good warm boots."""

    boots: int
    successes: int
    failures: int
    boot_s: BootSeconds

    @property
    def median_s(self) -> float | None:
        """The median of its last boots, in seconds."""
        return self.boot_s.median

    @property
    def mean_s(self) -> float | None:
        """The mean of all its boots, in seconds."""
        return self.boot_s.mean


@dataclass(frozen=True, slots=True)
class RuntimeSnapshot:
    """A snapshot; ``unusable_because`` says why it does not fit this host."""

    id: str
    runtime_image_id: str
    state: str
    hypervisor: str
    fc_version: str
    shape: Shape
    created_at: datetime
    success_count: int
    failure_count: int
    consecutive_failures: int
    last_used_at: datetime | None
    snapshot_path: str
    replaces: str | None
    error: Mapping[str, Any] | None
    metadata: Mapping[str, Any]
    version: int
    weight: float
    pinned: bool
    cause: str
    usable: bool
    unmet_requirement: str | None
    unusable_because: str
    stats: SnapshotStats
    rebuild_failures: int
    rebuild_not_before: datetime | None
    depth: str = field(default="runtime", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    parent_id: str | None = field(default=None, kw_only=True)
    stored_bytes: int | None = field(default=None, kw_only=True)
    """What its folder occupies on the disk; like these three, an older manager does not say it."""
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Port:
    """A published port of a container."""

    container_port: int
    host_port: int
    host_ip: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.host_ip}:{self.host_port}->{self.container_port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class StageStep:
    """A part of a stage."""

    name: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a boot; ``duration_s`` includes the durations of its ``steps``."""

    name: str
    started_s: float
    duration_s: float
    steps: tuple[StageStep, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """A container; ``boot_method`` is ``warm`` or ``cold``, and a cold one has its reason."""

    id: str
    name: str
    image: str
    state: str
    command: tuple[str, ...] | None
    boot_method: str | None
    fallback_reason: str | None
    fallback_message: str
    fallback_details: str
    boot_s: float | None
    stages: tuple[Stage, ...]
    ports: tuple[Port, ...]
    shape: Shape
    tty: bool
    exit_code: int | None
    answering: bool = field(default=True, kw_only=True)
    health: str | None = field(default=None, kw_only=True)
    """What its health check has found; ``none``: it has no check."""
    error: Mapping[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def stalled(self) -> bool:
        """Whether the VM is paused until the host's disk has room; ``error`` says so."""
        return self.state == "running" and (self.error or {}).get("code") == "disk-full"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened to the thing with the id ``subject_id``."""

    id: int
    at: datetime
    kind: str
    subject_id: str
    data: Mapping[str, Any]
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Check:
    """A check of ``doctor``: what was found, why it matters, and what to do."""

    name: str
    ok: bool
    summary: str
    why: str
    remedy: str
    required: bool


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of output; ``stream`` is ``stdout`` or ``stderr``."""

    stream: str
    data: bytes

"""What the client returns: frozen, typed, and with the answer as it came in ``raw``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


@dataclass(frozen=True, slots=True)
class Shape:
    vcpus: int
    memory_mib: int

    def __str__(self) -> str:
        return f"{self.vcpus} vCPU, {self.memory_mib} MiB"


@dataclass(frozen=True, slots=True)
class RuntimeImage:
    id: str
    name: str
    digest: str
    path: str
    size_bytes: int
    created_at: datetime
    damage: Mapping[str, Any] | None
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        return cls(
            id=raw["id"],
            name=raw["name"],
            digest=raw["digest"],
            path=raw["path"],
            size_bytes=sum(entry["size_bytes"] for entry in raw["files"].values()),
            created_at=datetime.fromisoformat(raw["created_at"]),
            damage=raw.get("damage"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Registered:
    """``id`` is the image's. ``note`` says why there is no snapshot."""

    id: str
    snapshot_id: str | None
    snapshot_begun: bool
    note: str

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        return cls(raw["id"], raw["snapshot_id"], raw["snapshot_begun"], raw["note"])


@dataclass(frozen=True, slots=True)
class SnapshotStats:
    """Of one version; ``median_s`` and ``mean_s`` of its good warm boots."""

    boots: int
    successes: int
    failures: int
    median_s: float | None
    mean_s: float | None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        seconds = raw["boot_s"]
        return cls(
            raw["boots"], raw["successes"], raw["failures"], seconds["median"], seconds["mean"]
        )


@dataclass(frozen=True, slots=True)
class RuntimeSnapshot:
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
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        return cls(
            id=raw["id"],
            runtime_image_id=raw["runtime_image_id"],
            state=raw["state"],
            version=raw["version"],
            weight=raw["weight"],
            pinned=raw["pinned"],
            cause=raw["cause"],
            usable=raw["usable"],
            unmet_requirement=raw["unmet_requirement"],
            unusable_because=raw["unusable_because"],
            stats=SnapshotStats.of(raw["stats"]),
            rebuild_failures=raw["rebuild_failures"],
            rebuild_not_before=_time(raw["rebuild_not_before"]),
            hypervisor=raw["hypervisor"],
            fc_version=raw["fc_version"],
            shape=Shape(**raw["shape"]),
            created_at=datetime.fromisoformat(raw["created_at"]),
            success_count=raw["success_count"],
            failure_count=raw["failure_count"],
            consecutive_failures=raw["consecutive_failures"],
            last_used_at=_time(raw["last_used_at"]),
            snapshot_path=raw["snapshot_path"],
            replaces=raw["replaces"],
            error=raw["error"],
            metadata=raw["metadata"],
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Port:
    container_port: int
    host_port: int
    host_ip: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.host_ip}:{self.host_port}->{self.container_port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class StageStep:
    name: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """``duration_s`` contains what its ``steps`` took."""

    name: str
    started_s: float
    duration_s: float
    steps: tuple[StageStep, ...] = ()

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        steps = tuple(StageStep(**step) for step in raw["steps"])
        return cls(raw["name"], raw["started_s"], raw["duration_s"], steps)


@dataclass(frozen=True, slots=True)
class Container:
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
    answering: bool
    error: Mapping[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def stalled(self) -> bool:
        """It stands still until the host has room on its disk; ``error`` says so."""
        return self.state == "running" and (self.error or {}).get("code") == "disk-full"

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        return cls(
            id=raw["id"],
            name=raw["name"],
            image=raw["image"],
            state=raw["state"],
            command=None if raw["command"] is None else tuple(raw["command"]),
            boot_method=raw["boot_method"],
            fallback_reason=raw["fallback_reason"],
            fallback_message=raw["fallback_message"],
            fallback_details=raw["fallback_details"],
            boot_s=raw["boot_s"],
            stages=tuple(Stage.of(stage) for stage in raw["stages"]),
            ports=tuple(Port(**port) for port in raw["ports"]),
            shape=Shape(**raw["shape"]),
            tty=raw["tty"],
            exit_code=raw["exit_code"],
            answering=raw.get("answering", True),
            error=raw["error"],
            created_at=datetime.fromisoformat(raw["created_at"]),
            started_at=_time(raw["started_at"]),
            finished_at=_time(raw["finished_at"]),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Event:
    id: int
    at: datetime
    kind: str
    subject_id: str
    data: Mapping[str, Any]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        return cls(
            id=raw["id"],
            at=datetime.fromisoformat(raw["at"]),
            kind=raw["kind"],
            subject_id=raw["subject_id"],
            data=raw["data"],
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    ok: bool
    summary: str
    why: str
    remedy: str
    required: bool


@dataclass(frozen=True, slots=True)
class LogChunk:
    """``stream`` is ``stdout`` or ``stderr``."""

    stream: str
    data: bytes

"""How a VM is booted, and for whom: a container, or an engine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from warmboot.model.shapes import Shape
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.model.vm import VmKind

MAX_FORKS = 1024
"""How many may be set to be allowed at once."""


class BootMethod(StrEnum):
    WARM = "warm"
    COLD = "cold"


class BootPolicy(StrEnum):
    """``auto`` boots warm where it can; ``cold`` asks for a cold boot."""

    AUTO = "auto"
    COLD = "cold"


class FallbackReason(StrEnum):
    """Why a VM was booted cold."""

    NO_SNAPSHOT = "no_snapshot"
    SNAPSHOT_UNHEALTHY = "snapshot_unhealthy"
    SNAPSHOT_WAIT_TIMEOUT = "snapshot_wait_timeout"
    VERSION_MISMATCH = "version_mismatch"
    HOST_MISMATCH = "host_mismatch"
    SHAPE_MISMATCH = "shape_mismatch"
    SNAPSHOT_DAMAGED = "snapshot_damaged"
    RESTORE_FAILED = "restore_failed"
    DOCKER_NOT_VERIFIED = "docker_not_verified"
    REQUESTED = "requested"
    KEEPS_DISK = "keeps_disk"

    @property
    def phrase(self) -> str:
        return _PHRASES[self]


_PHRASES = {
    FallbackReason.NO_SNAPSHOT: "No runtime snapshot available",
    FallbackReason.SNAPSHOT_UNHEALTHY: "Runtime snapshot is unhealthy",
    FallbackReason.SNAPSHOT_WAIT_TIMEOUT: "Runtime snapshot did not become ready in time",
    FallbackReason.VERSION_MISMATCH: "Hypervisor version mismatch",
    FallbackReason.HOST_MISMATCH: "Runtime snapshot was made on another kind of host",
    FallbackReason.SHAPE_MISMATCH: "No runtime snapshot has this shape",
    FallbackReason.SNAPSHOT_DAMAGED: "Runtime snapshot is damaged",
    FallbackReason.RESTORE_FAILED: "Restore failed",
    FallbackReason.DOCKER_NOT_VERIFIED: "Docker did not answer after the restore",
    FallbackReason.REQUESTED: "A cold boot was asked for",
    FallbackReason.KEEPS_DISK: "The disk of its earlier VM is kept",
}


@dataclass(frozen=True, slots=True)
class StageStep:
    """A part of a stage, e.g. ``clock`` of ``identity``, as the guest has timed it."""

    name: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class StageTiming:
    """One stage of a boot, e.g. ``restore`` or ``docker``; seconds since the request, and long.

    What its ``steps`` took is in ``duration_s``.
    """

    name: str
    started_s: float
    duration_s: float
    steps: tuple[StageStep, ...] = ()


@dataclass(frozen=True, slots=True)
class BootAttempt:
    """A warm boot that failed before the one that counts: which version, and why."""

    snapshot_id: UUID
    version: int
    reason: FallbackReason
    details: str = ""


class AsAsked:
    """What a tenant says of itself by what was asked for, its ``spec``."""

    __slots__ = ()
    spec: Any
    fallback_reason: FallbackReason | None

    @property
    def name(self) -> str:
        return str(self.spec.name)

    @property
    def boot(self) -> BootPolicy:
        asked: BootPolicy = self.spec.boot
        return asked

    @property
    def requested_shape(self) -> Shape | None:
        asked: Shape | None = self.spec.shape
        return asked

    @property
    def snapshot_id(self) -> UUID | None:
        return UUID(self.spec.snapshot) if self.spec.snapshot else None

    @property
    def image_reference(self) -> str | None:
        return None

    @property
    def folders(self) -> tuple[HostFolder, ...]:
        given: tuple[HostFolder, ...] = self.spec.folders
        return given

    @property
    def fallback_message(self) -> str:
        """Why it was booted cold, in words; empty if it was not."""
        return self.fallback_reason.phrase if self.fallback_reason else ""


class Tenant(Protocol):
    """Whom a VM is booted for, and keeps until it is removed: a container or an engine.

    ``kind`` is also what it is called in events and in the log.
    """

    @property
    def kind(self) -> VmKind: ...

    @property
    def id(self) -> UUID: ...

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> StrEnum: ...

    @property
    def host_name(self) -> str:
        """The host name of the tenant's VM."""
        ...

    @property
    def boot(self) -> BootPolicy: ...

    @property
    def requested_shape(self) -> Shape | None:
        """``None``: any will do."""
        ...

    @property
    def shape(self) -> Shape:
        """What it has, or is to get if it is booted cold."""
        ...

    @property
    def runtime_image_id(self) -> UUID | None: ...

    @property
    def snapshot_id(self) -> UUID | None:
        """Of the VM in use, as it was, from which it is to go on; ``None``: any version will do."""
        ...

    @property
    def image_reference(self) -> str | None:
        """The image of a registry that it is to have in its guest, from the start if there is a
        snapshot with it; ``None``: none, or not one of any platform."""
        ...

    @property
    def folders(self) -> tuple[HostFolder, ...]:
        """Those of the host that it was given."""
        ...

    @property
    def vm_id(self) -> str | None: ...

    @property
    def fallback_reason(self) -> FallbackReason | None: ...

    @property
    def started_at(self) -> datetime | None:
        """The time of the tenant's first start: from then on its disk is kept when its VM dies."""
        ...

    @property
    def error(self) -> object | None: ...

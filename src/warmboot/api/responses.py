"""What the API answers: the specification's fields, and ours."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field

from warmboot.manager.ports import Check, HostInfo, Registered
from warmboot.model.container import (
    BootAttempt,
    BootMethod,
    BootPolicy,
    Container,
    ContainerState,
    FallbackReason,
    PortMapping,
)
from warmboot.model.event import Event
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import BuildCause, RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.model.snapshot_fit import Fit

T = TypeVar("T")


class Items(BaseModel, Generic[T]):
    items: list[T]


class Item(BaseModel, Generic[T]):
    item: T


class Created(BaseModel):
    id: UUID


class RegisteredOut(BaseModel):
    """``snapshot_id`` is its snapshot of the default shape, if it has one or gets one."""

    id: UUID
    snapshot_id: UUID | None
    snapshot_begun: bool = Field(description="its build was begun by this registration")
    note: str = Field(description="why there is no snapshot")

    @classmethod
    def of(cls, registered: Registered) -> Self:
        return cls(
            id=registered.image.id,
            snapshot_id=registered.snapshot_id,
            snapshot_begun=registered.begun,
            note=registered.note,
        )


class Uploaded(BaseModel):
    id: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the archive")


class Ok(BaseModel):
    ok: Literal[True] = True


class RebuildStarted(BaseModel):
    id: UUID
    message: str = "Snapshot rebuild initiated"


class ProblemField(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457, with a stable ``code`` and what to do about it (``resolution``)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    resolution: str
    errors: list[ProblemField] = []
    id: str = ""


class ShapeOut(BaseModel):
    vcpus: int
    memory_mib: int

    @classmethod
    def of(cls, shape: Shape) -> Self:
        return cls(vcpus=shape.vcpus, memory_mib=shape.memory_mib)


class FileSumOut(BaseModel):
    size_bytes: int
    sha256: str


class RuntimeImageOut(BaseModel):
    id: UUID
    name: str
    digest: str
    path: str
    created_at: datetime
    agent_version: str
    cmdline: str
    files: dict[str, FileSumOut]
    labels: dict[str, str]

    @classmethod
    def of(cls, image: RuntimeImage) -> Self:
        manifest = image.manifest
        return cls(
            id=image.id,
            name=image.name,
            digest=image.digest,
            path=str(image.path),
            created_at=image.created_at,
            agent_version=manifest.agent_version,
            cmdline=manifest.cmdline,
            files={
                name: FileSumOut(size_bytes=entry.size_bytes, sha256=entry.sha256)
                for name, entry in manifest.files.items()
            },
            labels=dict(manifest.labels),
        )


class BootSecondsOut(BaseModel):
    """Seconds of good warm boots; ``median`` of the last 50, ``mean`` of all."""

    count: int
    median: float | None
    mean: float | None


class SnapshotStatsOut(BaseModel):
    boots: int = Field(description="tried: successes and failures")
    successes: int
    failures: int
    boot_s: BootSecondsOut

    @classmethod
    def of(cls, snapshot: RuntimeSnapshot) -> Self:
        good, bad, boots = snapshot.success_count, snapshot.failure_count, snapshot.boots
        seconds = BootSecondsOut(
            count=boots.count, median=_rounded(boots.median_s), mean=_rounded(boots.mean_s)
        )
        return cls(boots=good + bad, successes=good, failures=bad, boot_s=seconds)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


class RuntimeSnapshotOut(BaseModel):
    """``fc_version`` is the hypervisor's version; the name is the specification's.

    ``usable`` is apart from ``state``: a ``ready`` one that does not fit this host is not usable
    here, and ``unmet_requirement`` and ``unusable_because`` say why; it is not broken.
    """

    id: UUID
    runtime_image_id: UUID
    snapshot_path: str
    state: SnapshotState
    fc_version: str
    created_at: datetime
    success_count: int
    failure_count: int
    last_used_at: datetime | None
    metadata: dict[str, Any]
    hypervisor: str
    shape: ShapeOut
    consecutive_failures: int
    replaces: UUID | None
    error: dict[str, Any] | None
    version: int = Field(description="counts up per runtime image and shape")
    weight: float
    pinned: bool
    cause: BuildCause = Field(description="why it was begun")
    usable: bool
    unmet_requirement: str | None
    unusable_because: str
    stats: SnapshotStatsOut
    rebuild_failures: int = Field(description="rebuilds by the manager itself that failed in a row")
    rebuild_not_before: datetime | None

    @classmethod
    def of(cls, snapshot: RuntimeSnapshot, fit: Fit) -> Self:
        return cls(
            id=snapshot.id,
            runtime_image_id=snapshot.runtime_image_id,
            snapshot_path=str(snapshot.snapshot_path),
            state=snapshot.state,
            fc_version=snapshot.fc_version,
            created_at=snapshot.created_at,
            success_count=snapshot.success_count,
            failure_count=snapshot.failure_count,
            last_used_at=snapshot.last_used_at,
            metadata=dict(snapshot.metadata),
            hypervisor=snapshot.hypervisor,
            shape=ShapeOut.of(snapshot.shape),
            consecutive_failures=snapshot.consecutive_failures,
            replaces=snapshot.replaces,
            error=None if snapshot.error is None else dict(snapshot.error),
            version=snapshot.version,
            weight=snapshot.weight,
            pinned=snapshot.pinned,
            cause=snapshot.cause,
            usable=fit.usable,
            unmet_requirement=fit.requirement,
            unusable_because=fit.why,
            stats=SnapshotStatsOut.of(snapshot),
            rebuild_failures=snapshot.rebuild_failures,
            rebuild_not_before=snapshot.rebuild_not_before,
        )


class PortOut(BaseModel):
    container_port: int
    host_port: int
    host_ip: str
    protocol: str

    @classmethod
    def of(cls, port: PortMapping) -> Self:
        return cls(
            container_port=port.container_port,
            host_port=port.host_port,
            host_ip=port.host_ip,
            protocol=port.protocol,
        )


class StageOut(BaseModel):
    """One stage of the boot; seconds since the request, and how long it took."""

    name: str
    started_s: float
    duration_s: float


class BootAttemptOut(BaseModel):
    snapshot_id: UUID
    version: int
    reason: FallbackReason
    message: str
    details: str

    @classmethod
    def of(cls, attempt: BootAttempt) -> Self:
        return cls(
            snapshot_id=attempt.snapshot_id,
            version=attempt.version,
            reason=attempt.reason,
            message=attempt.reason.phrase,
            details=attempt.details,
        )


class ContainerOut(BaseModel):
    """``shape`` and ``ports`` are what runs; ``requested_*`` what was asked for."""

    id: UUID
    name: str
    image: str
    state: ContainerState
    boot_method: BootMethod | None
    fallback_reason: FallbackReason | None
    fallback_message: str
    fallback_details: str
    boot_s: float | None
    stages: list[StageOut]
    command: list[str] | None
    entrypoint: list[str] | None
    environment: dict[str, str]
    ports: list[PortOut]
    shape: ShapeOut
    requested_ports: list[PortOut]
    requested_shape: ShapeOut | None
    boot: BootPolicy
    archive: str | None
    tty: bool
    stdin_open: bool
    auto_remove: bool
    labels: dict[str, str]
    runtime_image_id: UUID | None
    runtime_snapshot_id: UUID | None
    snapshot_version: int | None
    boot_attempts: list[BootAttemptOut] = Field(
        description="versions that were tried before the boot that counts, and why they failed"
    )
    vm_id: str | None
    docker_id: str | None
    exit_code: int | None
    oom_killed: bool
    error: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, container: Container) -> Self:
        spec, reason = container.spec, container.fallback_reason
        return cls(
            id=container.id,
            name=container.name,
            image=spec.image,
            state=container.state,
            boot_method=container.boot_method,
            fallback_reason=reason,
            fallback_message=reason.phrase if reason else "",
            fallback_details=container.fallback_details,
            boot_s=container.boot_s,
            stages=[
                StageOut(name=s.name, started_s=s.started_s, duration_s=s.duration_s)
                for s in container.stages
            ],
            command=None if spec.command is None else list(spec.command),
            entrypoint=None if spec.entrypoint is None else list(spec.entrypoint),
            environment=dict(spec.environment),
            ports=[PortOut.of(port) for port in container.ports],
            shape=ShapeOut.of(container.shape),
            requested_ports=[PortOut.of(port) for port in spec.ports],
            requested_shape=ShapeOut.of(spec.shape) if spec.shape else None,
            boot=spec.boot,
            archive=spec.archive,
            tty=spec.tty,
            stdin_open=spec.stdin_open,
            auto_remove=spec.auto_remove,
            labels=dict(spec.labels),
            runtime_image_id=spec.runtime_image_id or container.runtime_image_id,
            runtime_snapshot_id=container.runtime_snapshot_id,
            snapshot_version=container.snapshot_version,
            boot_attempts=[BootAttemptOut.of(attempt) for attempt in container.boot_attempts],
            vm_id=container.vm_id,
            docker_id=container.docker_id,
            exit_code=container.exit_code,
            oom_killed=container.oom_killed,
            error=None if container.error is None else dict(container.error),
            created_at=container.created_at,
            started_at=container.started_at,
            finished_at=container.finished_at,
        )


class EventOut(BaseModel):
    id: int
    at: datetime
    kind: str
    subject_id: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> Self:
        return cls(
            id=event.id,
            at=event.at,
            kind=event.kind,
            subject_id=event.subject_id,
            data=dict(event.data),
        )


class CheckOut(BaseModel):
    name: str
    ok: bool
    summary: str
    why: str
    remedy: str
    required: bool

    @classmethod
    def of(cls, check: Check) -> Self:
        return cls(
            name=check.name,
            ok=check.ok,
            summary=check.summary,
            why=check.why,
            remedy=check.remedy,
            required=check.required,
        )


class HostInfoOut(BaseModel):
    version: str
    hypervisor: str
    hypervisor_version: str
    accelerator: str
    storage_root: str
    default_shape: ShapeOut
    standby_vms: int = Field(description="VMs that stand by for the next warm boots")
    standby_vms_most: int = Field(description="as many are kept, one after the other made ready")
    checks: list[CheckOut]

    @classmethod
    def of(cls, info: HostInfo) -> Self:
        return cls(
            version=info.version,
            hypervisor=info.hypervisor,
            hypervisor_version=info.hypervisor_version,
            accelerator=info.accelerator,
            storage_root=str(info.storage_root),
            default_shape=ShapeOut.of(info.default_shape),
            standby_vms=info.standby_vms,
            standby_vms_most=info.standby_vms_most,
            checks=[CheckOut.of(check) for check in info.checks],
        )

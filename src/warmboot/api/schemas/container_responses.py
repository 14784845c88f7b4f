"""Response models for containers: the specification's fields, and more."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from warmboot.api.schemas.responses import ShapeOut
from warmboot.model.container import (
    BootAttempt,
    BootMethod,
    BootPolicy,
    Container,
    ContainerState,
    FallbackReason,
    PortMapping,
    StageTiming,
)
from warmboot.model.errors import VmUnresponsive


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


class StageStepOut(BaseModel):
    name: str
    duration_s: float


class StageOut(BaseModel):
    """One stage of the boot; seconds since the request, and how long it took."""

    name: str
    started_s: float
    duration_s: float
    steps: list[StageStepOut] = Field(
        description="what the guest did in this stage; the stage's own duration contains them"
    )

    @classmethod
    def of(cls, stage: StageTiming) -> Self:
        return cls(
            name=stage.name,
            started_s=stage.started_s,
            duration_s=stage.duration_s,
            steps=[StageStepOut(name=s.name, duration_s=s.duration_s) for s in stage.steps],
        )


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
    user: str
    working_dir: str
    hostname: str
    stop_signal: str
    stop_timeout_s: int | None
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
    answering: bool = Field(
        description="false while its VM is there and does not answer; `error` says what to do"
    )
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
            stages=[StageOut.of(stage) for stage in container.stages],
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
            user=spec.user,
            working_dir=spec.working_dir,
            hostname=spec.host_name,
            stop_signal=spec.stop_signal,
            stop_timeout_s=spec.stop_timeout_s,
            runtime_image_id=spec.runtime_image_id or container.runtime_image_id,
            runtime_snapshot_id=container.runtime_snapshot_id,
            snapshot_version=container.snapshot_version,
            boot_attempts=[BootAttemptOut.of(attempt) for attempt in container.boot_attempts],
            vm_id=container.vm_id,
            docker_id=container.docker_id,
            exit_code=container.exit_code,
            oom_killed=container.oom_killed,
            answering=(container.error or {}).get("code") != VmUnresponsive.code,
            error=None if container.error is None else dict(container.error),
            created_at=container.created_at,
            started_at=container.started_at,
            finished_at=container.finished_at,
        )

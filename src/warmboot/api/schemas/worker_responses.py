"""Response models for workers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel

from warmboot.model.checkpoint import Checkpoint, CheckpointState
from warmboot.model.worker import Worker, WorkerPolicy, WorkerState


class MountOut(BaseModel):
    source: str
    target: str
    read_only: bool


class PolicyOut(BaseModel):
    pause_after_idle_s: float | None
    checkpoint_every_s: float | None
    keep_checkpoints: int
    pause_at_shutdown: bool
    wake_on: list[int]

    @classmethod
    def of(cls, policy: WorkerPolicy) -> Self:
        return cls(
            pause_after_idle_s=policy.pause_after_idle_s,
            checkpoint_every_s=policy.checkpoint_every_s,
            keep_checkpoints=policy.keep_checkpoints,
            pause_at_shutdown=policy.pause_at_shutdown,
            wake_on=list(policy.wake_on),
        )


class WorkerOut(BaseModel):
    """``paused_into`` is the id of the checkpoint that a resume takes. ``error``: the last one."""

    id: UUID
    name: str
    image: str
    image_digest: str
    state: WorkerState
    command: list[str] | None
    entrypoint: list[str] | None
    environment: dict[str, str]
    mounts: list[MountOut]
    network: str
    labels: dict[str, str]
    policy: PolicyOut
    tty: bool
    auto_remove: bool
    start: bool
    docker_id: str | None
    paused_into: UUID | None
    exit_code: int | None
    error: dict[str, Any] | None
    created_at: datetime
    heard_at: datetime | None
    paused_at: datetime | None
    resumed_at: datetime | None

    @classmethod
    def of(cls, worker: Worker) -> Self:
        spec = worker.spec
        return cls(
            id=worker.id,
            name=worker.name,
            image=spec.image,
            image_digest=worker.image_digest,
            state=worker.state,
            command=None if spec.command is None else list(spec.command),
            entrypoint=None if spec.entrypoint is None else list(spec.entrypoint),
            environment=dict(spec.environment),
            mounts=[
                MountOut(source=m.source, target=m.target, read_only=m.read_only)
                for m in spec.mounts
            ],
            network=spec.network,
            labels=dict(spec.labels),
            policy=PolicyOut.of(spec.policy),
            tty=spec.tty,
            auto_remove=spec.auto_remove,
            start=spec.start,
            docker_id=worker.docker_id,
            paused_into=worker.paused_into,
            exit_code=worker.exit_code,
            error=None if worker.error is None else dict(worker.error),
            created_at=worker.created_at,
            heard_at=worker.heard_at,
            paused_at=worker.paused_at,
            resumed_at=worker.resumed_at,
        )


class VersionsOut(BaseModel):
    """What a checkpoint was made with; empty while it is being made."""

    engine: str
    criu: str
    kernel: str
    architecture: str


class CheckpointOut(BaseModel):
    """``tcp_connections`` are those that were not merely listening."""

    id: UUID
    worker_id: UUID
    name: str
    state: CheckpointState
    created_at: datetime
    size_bytes: int
    duration_s: float
    processes: int
    tcp_connections: int
    left_running: bool
    automatic: bool
    image_digest: str
    versions: VersionsOut

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        versions = checkpoint.versions
        return cls(
            id=checkpoint.id,
            worker_id=checkpoint.worker_id,
            name=checkpoint.name,
            state=checkpoint.state,
            created_at=checkpoint.created_at,
            size_bytes=checkpoint.size_bytes,
            duration_s=checkpoint.duration_s,
            processes=checkpoint.processes,
            tcp_connections=checkpoint.tcp_connections,
            left_running=checkpoint.left_running,
            automatic=checkpoint.automatic,
            image_digest=checkpoint.image_digest,
            versions=VersionsOut(
                engine=versions.engine,
                criu=versions.criu,
                kernel=versions.kernel,
                architecture=versions.architecture,
            ),
        )

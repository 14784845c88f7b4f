"""Response models for workers."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from warmboot.api.schemas.responses import Out, asked
from warmboot.model.checkpoint import CheckpointState
from warmboot.model.worker import WorkerState


class MountOut(Out):
    source: str
    target: str
    read_only: bool


class PolicyOut(Out):
    pause_after_idle_s: float | None
    checkpoint_every_s: float | None
    keep_checkpoints: int
    pause_at_shutdown: bool
    wake_on: list[int]


class WorkerOut(Out):
    """``paused_into`` is the id of the checkpoint that a resume takes. ``error``: the last one."""

    id: UUID
    name: str
    image: str = asked("image")
    image_digest: str
    state: WorkerState
    command: list[str] | None = asked("command")
    entrypoint: list[str] | None = asked("entrypoint")
    environment: dict[str, str | None] = asked("environment")
    mounts: list[MountOut] = asked("mounts")
    network: str = asked("network")
    labels: dict[str, str] = asked("labels")
    policy: PolicyOut = asked("policy")
    tty: bool = asked("tty")
    auto_remove: bool = asked("auto_remove")
    start: bool = asked("start")
    docker_id: str | None
    paused_into: UUID | None
    exit_code: int | None
    error: dict[str, Any] | None
    created_at: datetime
    heard_at: datetime | None
    paused_at: datetime | None
    resumed_at: datetime | None
    runtime: str


class ChangedFileOut(Out):
    """``path`` as the worker sees it; ``size_bytes`` is null if it is gone."""

    path: str
    size_then_bytes: int
    size_bytes: int | None


class ResumedOut(WorkerOut):
    """``changed_files``: those in its mounts that it held open, and that have changed since."""

    changed_files: list[ChangedFileOut] = Field(default_factory=list)


class VersionsOut(Out):
    """What a checkpoint was made with; empty while it is being made."""

    engine: str
    criu: str
    kernel: str
    architecture: str


class CheckpointOut(Out):
    """``tcp_connections`` are those that were not merely listening."""

    id: UUID
    worker_id: UUID
    name: str
    state: CheckpointState
    created_at: datetime
    size_bytes: int
    stored_bytes: int | None
    duration_s: float
    processes: int
    tcp_connections: int
    left_running: bool
    automatic: bool
    image_digest: str
    versions: VersionsOut

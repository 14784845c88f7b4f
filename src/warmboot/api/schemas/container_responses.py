"""Response models for containers: the specification's fields, and more."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import AliasPath, Field

from warmboot.api.schemas.responses import FolderOut, Out, ShapeOut, asked
from warmboot.model.container import ContainerState
from warmboot.model.tenants.boot import BootMethod, BootPolicy, FallbackReason
from warmboot.model.tenants.container_options import ContainerOptions, Health


class PortOut(Out):
    container_port: int
    host_port: int
    host_ip: str
    protocol: str


class StageStepOut(Out):
    name: str
    duration_s: float


class StageOut(Out):
    """One stage of the boot; seconds since the request, and how long it took."""

    name: str
    started_s: float
    duration_s: float
    steps: list[StageStepOut] = Field(
        description="what the guest did in this stage; the stage's own duration contains them"
    )


class BootAttemptOut(Out):
    snapshot_id: UUID
    version: int
    reason: FallbackReason
    message: str = Field(validation_alias=AliasPath("reason", "phrase"))
    details: str


class ContainerOut(Out):
    """``shape`` and ``ports`` are what runs; ``requested_*`` what was asked for."""

    id: UUID
    name: str
    image: str = asked("image")
    state: ContainerState
    boot_method: BootMethod | None
    fallback_reason: FallbackReason | None
    fallback_message: str
    fallback_details: str
    boot_s: float | None
    stages: list[StageOut]
    command: list[str] | None = asked("command")
    entrypoint: list[str] | None = asked("entrypoint")
    environment: dict[str, str | None] = asked("environment")
    ports: list[PortOut]
    shape: ShapeOut
    requested_ports: list[PortOut] = asked("ports")
    requested_shape: ShapeOut | None = asked("shape")
    boot: BootPolicy = asked("boot")
    archive: str | None = asked("archive")
    tty: bool = asked("tty")
    stdin_open: bool = asked("stdin_open")
    auto_remove: bool = asked("auto_remove")
    labels: dict[str, str] = asked("labels")
    user: str = asked("user")
    working_dir: str = asked("working_dir")
    hostname: str = asked("host_name")
    stop_signal: str = asked("stop_signal")
    stop_timeout_s: int | None = asked("stop_timeout_s")
    options: ContainerOptions = asked("options")
    publish_all: bool = asked("publish_all")
    park_at_shutdown: bool = asked("park_at_shutdown")
    park_after_idle_s: float | None = asked("park_after_idle_s")
    folders: list[FolderOut] = Field(
        validation_alias=AliasPath("spec", "folders"),
        description="folders of this host in which is what it mounts",
    )
    owner_uid: int = Field(
        validation_alias=AliasPath("spec", "owner_uid"),
        description="the user of this host with whose rights they are read and written",
    )
    runtime_image_id: UUID | None = Field(validation_alias="base_image_id")
    runtime_snapshot_id: UUID | None
    snapshot_version: int | None
    boot_attempts: list[BootAttemptOut] = Field(
        description="snapshots that were tried before the boot that counts, and why they failed"
    )
    vm_id: str | None
    docker_id: str | None
    exit_code: int | None
    oom_killed: bool
    health: Health | None = Field(
        description="what its health check has found; none: it has no check; null: it has not run"
    )
    answering: bool = Field(
        description="false while its VM is there and does not answer; `error` says what to do"
    )
    error: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

"""Request models for workers: strict and limited, as in ``requests``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictBool, StrictInt

from warmboot.api.schemas.requests import (
    KEYS,
    MAX_PERIOD_S,
    NAME_PATTERN,
    OR_WHOLE,
    WORD_PATTERN,
    Environment,
    HostPath,
    ImageReference,
    LabelName,
    LabelValue,
    Strict,
    Words,
)
from warmboot.model.checkpoint import ResumeOptions, check_checkpoint_name
from warmboot.model.conventions.names import MAX_NAME_LENGTH, invent_name
from warmboot.model.conventions.program_start import assignments, check_size
from warmboot.model.errors import InvalidName, InvalidRequest
from warmboot.model.worker import HOST_NETWORK, MAX_PORT, Mount, WorkerSpec

MIN_WORK_TIMEOUT_S, MAX_WORK_TIMEOUT_S = 0.1, 86_400.0


def _checked_checkpoint(name: str) -> str:
    try:
        return check_checkpoint_name(name)
    except InvalidName as error:
        raise ValueError(f"{error.brief}: {error.details or error.resolution}") from error


def _checked_worker(name: str) -> str:
    try:
        WorkerSpec(name, "image")
    except InvalidName as error:
        raise ValueError(f"{error.brief}: {error.details or error.resolution}") from error
    return name


def _plain_path(path: str) -> str:
    try:
        Mount(path, path)
    except InvalidRequest as error:
        raise ValueError(f"{error.brief}: {error.resolution}") from error
    return path


CheckpointName = Annotated[
    str,
    Field(min_length=2, max_length=MAX_NAME_LENGTH, json_schema_extra={"pattern": NAME_PATTERN}),
    AfterValidator(_checked_checkpoint),
]
WorkerName = Annotated[
    str,
    Field(min_length=2, max_length=MAX_NAME_LENGTH, json_schema_extra={"pattern": NAME_PATTERN}),
    AfterValidator(_checked_worker),
]
MountPath = Annotated[HostPath, AfterValidator(_plain_path)]
Period = Annotated[float, Field(ge=1, le=MAX_PERIOD_S, allow_inf_nan=False)]
WorkTimeout = Annotated[
    float,
    Field(
        ge=MIN_WORK_TIMEOUT_S,
        le=MAX_WORK_TIMEOUT_S,
        allow_inf_nan=False,
        description="seconds that it may take; it is ended then, and has failed; null: no limit "
        "while it makes progress",
    ),
]
Port = Annotated[StrictInt, Field(ge=1, le=MAX_PORT), OR_WHOLE]
Network = Annotated[str, Field(min_length=1, max_length=128, pattern=WORD_PATTERN)]


class MountIn(Strict):
    """A path of the manager's machine in the worker; it is no part of checkpoints."""

    source: MountPath
    target: MountPath
    read_only: StrictBool = False


class PolicyIn(Strict):
    """What happens without being asked; see docs/how-to/workers.md."""

    pause_after_idle_s: Period | None = None
    checkpoint_every_s: Period | None = None
    keep_checkpoints: Annotated[StrictInt, Field(ge=1, le=1000), OR_WHOLE] = 3
    pause_at_shutdown: StrictBool = False
    wake_on: Annotated[list[Port], Field(max_length=64, default_factory=list)]


class WorkerIn(Strict):
    """A worker to create. Only ``image`` is needed. ``start: false`` only creates it."""

    image: ImageReference
    name: WorkerName | None = None
    command: Words | None = None
    entrypoint: Words | None = None
    environment: Environment
    mounts: Annotated[list[MountIn], Field(max_length=64, default_factory=list)]
    network: Network = HOST_NETWORK
    labels: Annotated[
        dict[LabelName, LabelValue],
        Field(max_length=256, default_factory=dict, json_schema_extra=KEYS),
    ]
    policy: Annotated[PolicyIn, Field(default_factory=PolicyIn)]
    tty: StrictBool = False
    auto_remove: StrictBool = False
    start: StrictBool = True

    def to_model(self) -> WorkerSpec:
        check_size([*(self.entrypoint or ()), *(self.command or ())], assignments(self.environment))
        return self.to(WorkerSpec, name=self.name or invent_name())


class PauseIn(Strict):
    """``checkpoint`` names the checkpoint. With ``wait: false`` the answer comes before it."""

    checkpoint: CheckpointName | None = None
    wait: StrictBool = True
    timeout_s: WorkTimeout | None = None


class ResumeIn(Strict):
    """``checkpoint``: another than the one the worker was paused into."""

    checkpoint: CheckpointName | None = None
    keep_files: StrictBool = False
    close_connections: StrictBool = False
    timeout_s: WorkTimeout | None = None

    @property
    def options(self) -> ResumeOptions:
        return ResumeOptions(self.keep_files, self.close_connections)


class CheckpointIn(Strict):
    name: CheckpointName | None = None
    leave_running: StrictBool = True
    timeout_s: WorkTimeout | None = None


class ReportIn(Strict):
    """Progress, or whatever a worker has to say; 16 KiB at most."""

    kind: Annotated[str, Field(min_length=1, max_length=64, pattern=WORD_PATTERN)]
    data: Annotated[dict[str, Any], Field(default_factory=dict)]

"""A worker: a container on the host's own Docker engine that can be paused with its memory.

    creating ──▶ running ──▶ pausing ──▶ paused ──▶ resuming ──▶ running
       │         │  ▲ ▲         │          ▲           │
       │         │  │ └─────────┘          └───────────┘
       │         ▼  │   the dump failed      the restore failed
       │      checkpointing      (``leave_running``: it goes on meanwhile)
       └──▶ paused               (never started: a checkpoint was imported into it)

    its process ended:       running, checkpointing, pausing, resuming ──▶ exited
    from a checkpoint left:  exited, failed ──▶ resuming
    cannot be told any more: every state ──▶ failed
    every state ──▶ deleting ──▶ (gone)

Between two states one operation at a time has the worker: ``pausing``, ``resuming`` and
``checkpointing`` are entered by a guarded update, so a second request is refused with a conflict.
``failed`` means that there is no container to speak of, or that it cannot be said what it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from warmboot.model.conventions.names import check_name
from warmboot.model.errors import InvalidName, InvalidRequest
from warmboot.model.transitions import Transitions

HOST_NETWORK = "host"
RUNTIME = "warmboot"
"""What the OCI runtime is called that pauses and resumes past the engine."""

LOOPBACK = "127.0.0.1"
"""Where a worker is taken to have listened when that cannot be told."""

MAX_PORT = 65_535


class WorkerState(StrEnum):
    CREATING = "creating"
    RUNNING = "running"
    CHECKPOINTING = "checkpointing"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    EXITED = "exited"
    FAILED = "failed"
    DELETING = "deleting"


_S = WorkerState

WORKER_TRANSITIONS = Transitions(
    "worker",
    {
        _S.CREATING: frozenset({_S.RUNNING, _S.PAUSED, _S.EXITED, _S.FAILED, _S.DELETING}),
        _S.RUNNING: frozenset({_S.CHECKPOINTING, _S.PAUSING, _S.EXITED, _S.FAILED, _S.DELETING}),
        _S.CHECKPOINTING: frozenset({_S.RUNNING, _S.EXITED, _S.FAILED, _S.DELETING}),
        _S.PAUSING: frozenset({_S.PAUSED, _S.RUNNING, _S.EXITED, _S.FAILED, _S.DELETING}),
        _S.PAUSED: frozenset({_S.RESUMING, _S.FAILED, _S.DELETING}),
        _S.RESUMING: frozenset({_S.RUNNING, _S.PAUSED, _S.EXITED, _S.FAILED, _S.DELETING}),
        _S.EXITED: frozenset({_S.RESUMING, _S.FAILED, _S.DELETING}),
        _S.FAILED: frozenset({_S.RESUMING, _S.DELETING}),
        _S.DELETING: frozenset(),
    },
)


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the host (``source``) in the worker (``target``); both absolute paths.

    What lies in a mount is not part of a checkpoint: it is there at the restore as it is then.
    """

    source: str
    target: str
    read_only: bool = False

    def __post_init__(self) -> None:
        for path, what in ((self.source, "source"), (self.target, "target")):
            if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
                raise InvalidRequest(
                    f"{path!r} cannot be the {what} of a mount",
                    resolution="give an absolute path without '..'",
                )


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An address at which a process waits for TCP connections; ``host`` is an IPv4 or IPv6
    address.
    """

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class WorkerPolicy:
    """What happens to a worker without being asked.

    ``pause_after_idle_s``: paused when for so long it neither reported anything nor used its CPUs
    to speak of; ``None``: never.
    ``checkpoint_every_s``: a checkpoint that leaves it running, the newest ``keep_checkpoints`` of
    which are kept. ``pause_at_shutdown`` pauses it when the manager or the machine stops and
    resumes it at the next start. ``wake_on`` are TCP ports of the worker: while it is paused a
    connection to one of them is held and wakes it.
    """

    pause_after_idle_s: float | None = None
    checkpoint_every_s: float | None = None
    keep_checkpoints: int = 3
    pause_at_shutdown: bool = False
    wake_on: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for value, what in (
            (self.pause_after_idle_s, "pause_after_idle_s"),
            (self.checkpoint_every_s, "checkpoint_every_s"),
        ):
            if value is not None and not 1 <= value < float("inf"):
                raise InvalidRequest(
                    f"{what} is {value}", resolution="give a second or more, or leave it out"
                )
        if self.keep_checkpoints < 1:
            raise InvalidRequest(
                f"keep_checkpoints is {self.keep_checkpoints}", resolution="keep at least one"
            )
        for port in self.wake_on:
            if not 1 <= port <= MAX_PORT:
                raise InvalidRequest(
                    f"{port} is not a TCP port", resolution=f"give one from 1 to {MAX_PORT}"
                )


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What the user asked for. ``command`` and ``entrypoint`` as in Docker.

    ``network`` is ``host`` unless the engine is known to restore on another one
    (``warmboot.model.checkpoint.obstacles``); ``tty`` and ``auto_remove`` are there to be refused
    with a reason, not to be lost silently. Without ``start`` it is only created, so that a
    checkpoint can be imported into it.
    """

    name: str
    image: str
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    network: str = HOST_NETWORK
    labels: Mapping[str, str] = field(default_factory=dict)
    policy: WorkerPolicy = WorkerPolicy()
    tty: bool = False
    auto_remove: bool = False
    start: bool = True

    def __post_init__(self) -> None:
        if len(check_name(self.name, "worker's name")) < 2:
            raise InvalidName(
                f"{self.name!r} is too short for a worker's name",
                resolution="use two characters or more: Docker asks for that",
            )
        if not self.image or any(character.isspace() for character in self.image):
            raise InvalidRequest(
                f"{self.image!r} is not an image reference",
                resolution="give a reference like app:1",
            )
        for key, value in self.environment.items():
            if not key or "=" in key or "\0" in key + (value or ""):
                raise InvalidRequest(
                    f"{key!r} cannot be an environment variable",
                    resolution="use a name without '=' and no null characters",
                )


@dataclass(frozen=True, slots=True)
class Worker:
    """A row of ``workers``. ``docker_id`` is the container's id on the host's engine.

    ``paused_into`` is the checkpoint that a resume without a name takes. ``error`` says why the
    last operation failed. ``listens`` is where it listened when it was paused, as far as
    ``wake_on`` asks for it. ``resume_at_start``: a manager paused it when it stopped. ``runtime``
    is ``RUNTIME`` if its container was created with that; empty: the engine makes its checkpoints.
    ``restart_policy`` is its container's, as Docker has it, while that is taken off for a pause.
    """

    id: UUID
    spec: WorkerSpec
    state: WorkerState
    created_at: datetime
    docker_id: str | None = None
    image_digest: str = ""
    paused_into: UUID | None = None
    exit_code: int | None = None
    error: Mapping[str, Any] | None = None
    heard_at: datetime | None = None
    paused_at: datetime | None = None
    resumed_at: datetime | None = None
    listens: tuple[ListenAddress, ...] = ()
    resume_at_start: bool = False
    runtime: str = ""
    restart_policy: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.spec.name

"""The client's result types for workers: frozen, typed, with the JSON response in ``raw``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker: a container of the host's own Docker that can be paused into a checkpoint."""

    id: str
    name: str
    image: str
    state: str
    command: tuple[str, ...] | None
    network: str
    docker_id: str | None
    paused_into: str | None
    exit_code: int | None
    error: Mapping[str, Any] | None
    created_at: datetime
    heard_at: datetime | None
    paused_at: datetime | None
    resumed_at: datetime | None
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file in a mount: its path in the worker, its size at the checkpoint, and at the resume.

    ``size_bytes`` is ``None`` if it is gone.
    """

    path: str
    size_then_bytes: int
    size_bytes: int | None
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resumed(Worker):
    """``changed_files``: those in its mounts that it held open, and that have changed since."""

    changed_files: tuple[ChangedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A worker's memory and files at a moment."""

    id: str
    name: str
    state: str
    created_at: datetime
    size_bytes: int
    stored_bytes: int | None
    duration_s: float
    processes: int
    tcp_connections: int
    left_running: bool
    automatic: bool
    raw: Mapping[str, Any] = field(repr=False)

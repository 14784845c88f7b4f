"""What can be seen inside a container: its processes, its files and what it has changed of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from warmboot.model.tenants.container_options import Health


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """What ``ps`` shows of a container's processes: columns, and one row for each process."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """What a running container uses, as its Docker counts it.

    ``cpu_percent`` is of the last second, and 100 for one CPU; ``cpu_s`` and the bytes of networks
    and block devices count from its start. ``memory_bytes`` is without the files that the kernel
    keeps in memory and could drop; the limit is its VM's memory if it has none of its own.
    """

    at: datetime
    cpu_percent: float
    cpu_s: float
    memory_bytes: int
    memory_limit_bytes: int
    network_received_bytes: int
    network_sent_bytes: int
    block_read_bytes: int
    block_written_bytes: int
    processes: int


@dataclass(frozen=True, slots=True)
class HealthProbe:
    """One run of a container's health check."""

    started_at: datetime
    ended_at: datetime
    exit_code: int
    output: str


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What a health check has found: its last runs, oldest first, and how many failed in a row."""

    status: Health
    failing_streak: int = 0
    probes: tuple[HealthProbe, ...] = ()


class ChangeKind(StrEnum):
    CHANGED = "changed"
    ADDED = "added"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    """A file or folder that is not as the container's image has it."""

    path: str
    kind: ChangeKind


class FileKind(StrEnum):
    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileStatus:
    """A file in a container. ``mode``: its permissions; ``link_target``: where a link leads."""

    name: str
    kind: FileKind
    size_bytes: int
    mode: int
    modified_at: datetime
    link_target: str = ""

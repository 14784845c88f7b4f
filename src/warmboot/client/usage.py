"""The client's result types for usage: frozen, typed, with the JSON response in ``raw``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class VmUsage:
    """``cpu_s`` is processor time since the VM's start, so two looks give its load."""

    vm_id: str
    kind: str
    owner_id: str
    cpu_s: float
    memory_bytes: int
    private_bytes: int


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """``cpu_percent`` is of the last second (100: one CPU); bytes moved are since its start."""

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
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class HealthProbe:
    """One run of a health check."""

    started_at: datetime
    ended_at: datetime
    exit_code: int
    output: str


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What a health check has found: its last runs, and how many failed in a row."""

    status: str
    failing_streak: int
    probes: tuple[HealthProbe, ...]
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class BootSummary:
    """Boots of one method: how many, how long, and why they were cold."""

    count: int
    median_s: float | None
    max_s: float | None
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Storage:
    """The file system of the manager's storage root; it keeps ``floor_bytes`` free."""

    total_bytes: int
    free_bytes: int
    floor_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What VMs and storage use now, and by method the boots of the last ``window_s`` seconds."""

    at: datetime
    window_s: float
    boots: Mapping[str, BootSummary]
    vms: tuple[VmUsage, ...]
    storage: Storage
    raw: Mapping[str, Any] = field(repr=False)

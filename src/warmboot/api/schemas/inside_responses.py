"""Response models for the inside of containers."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from warmboot.api.schemas.responses import Out
from warmboot.model.tenants.container_options import Health
from warmboot.model.tenants.inside import ChangeKind, FileKind


class ProcessTableOut(Out):
    titles: list[str] = Field(description="the columns, as ps calls them")
    rows: list[list[str]] = Field(description="a row for each process")


class ContainerStatsOut(Out):
    at: datetime = Field(description="when it was counted")
    cpu_percent: float = Field(description="of the last second; 100 is one CPU")
    cpu_s: float = Field(description="seconds of processor time since its start")
    memory_bytes: int = Field(description="without cached files that could be dropped")
    memory_limit_bytes: int = Field(description="its own limit, or its VM's memory")
    network_received_bytes: int = Field(description="since its start")
    network_sent_bytes: int = Field(description="since its start")
    block_read_bytes: int = Field(description="from block devices, since its start")
    block_written_bytes: int = Field(description="to block devices, since its start")
    processes: int = Field(description="processes and threads")


class HealthProbeOut(Out):
    started_at: datetime
    ended_at: datetime = Field(description="when it ended, or its time was over")
    exit_code: int = Field(description="0: it is well")
    output: str = Field(description="what it has written, cut by Docker")


class HealthReportOut(Out):
    status: Health = Field(description="none: it has no check")
    failing_streak: int = Field(description="runs of the check that failed in a row, the last ones")
    probes: list[HealthProbeOut] = Field(description="its last runs, oldest first")


class ChangeOut(Out):
    path: str
    kind: ChangeKind = Field(description="what became of it")


class FileStatusOut(Out):
    name: str = Field(description="the last part of its path")
    kind: FileKind = Field(description="what it is")
    size_bytes: int
    mode: int = Field(description="its permissions: the last nine bits")
    modified_at: datetime = Field(description="when its content was changed last")
    link_target: str = Field(description="where a link leads; else empty")

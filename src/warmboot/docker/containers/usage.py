"""What a Docker engine counts of a running container, reduced to what ``docker stats`` shows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from warmboot.docker.containers.times import moment
from warmboot.model.errors import Conflict, GuestError
from warmboot.model.tenants.inside import ContainerStats

_NEVER = "0001-01-01"


def stats_of(told: Mapping[str, Any]) -> ContainerStats:
    """``Conflict`` if nothing was counted, as it does not run; ``GuestError``."""
    if str(told.get("read") or _NEVER).startswith(_NEVER):
        raise Conflict("the container is not running")
    try:
        return _stats(moment(str(told["read"])), told)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GuestError(
            "Docker's statistics of a container are not understood", details=str(error)
        ) from error


def _stats(at: datetime, told: Mapping[str, Any]) -> ContainerStats:
    cpu, memory = told["cpu_stats"], told.get("memory_stats") or {}
    networks = (told.get("networks") or {}).values()
    blocks = (told.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    return ContainerStats(
        at=at,
        cpu_percent=_cpu_percent(cpu, told.get("precpu_stats") or {}),
        cpu_s=int(cpu["cpu_usage"]["total_usage"]) / 1e9,
        memory_bytes=_used(memory),
        memory_limit_bytes=int(memory.get("limit") or 0),
        network_received_bytes=sum(int(one["rx_bytes"]) for one in networks),
        network_sent_bytes=sum(int(one["tx_bytes"]) for one in networks),
        block_read_bytes=_moved(blocks, "read"),
        block_written_bytes=_moved(blocks, "write"),
        processes=int((told.get("pids_stats") or {}).get("current") or 0),
    )


def _cpu_percent(cpu: Mapping[str, Any], before: Mapping[str, Any]) -> float:
    """Since the sample before, which Docker takes a second earlier; 100 is one CPU."""
    used = int(cpu["cpu_usage"]["total_usage"]) - int(
        (before.get("cpu_usage") or {}).get("total_usage") or 0
    )
    passed = int(cpu.get("system_cpu_usage") or 0) - int(before.get("system_cpu_usage") or 0)
    cpus = int(cpu.get("online_cpus") or len(cpu["cpu_usage"].get("percpu_usage") or ()))
    return round(used / passed * cpus * 100, 2) if used > 0 and passed > 0 else 0.0


def _used(memory: Mapping[str, Any]) -> int:
    """Without what the kernel could drop at any time of the files that it has read."""
    usage, parts = int(memory.get("usage") or 0), memory.get("stats") or {}
    # Version 1 of cgroups has the first, version 2 the other.
    dropped = int(parts.get("total_inactive_file") or parts.get("inactive_file") or 0)
    return usage - dropped if dropped < usage else usage


def _moved(blocks: Any, way: str) -> int:
    return sum(int(one["value"]) for one in blocks if str(one["op"]).lower() == way)

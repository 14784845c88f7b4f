"""What `warmboot inspect` shows beside what the API tells of a container. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NEVER = "0001-01-01T00:00:00Z"
"""Docker's word for a time that has not been."""


def state(container: Mapping[str, Any]) -> dict[str, Any]:
    """Docker's ``State`` of it; ``Health`` is ``None`` if it has no check, or cannot be asked."""
    error = container["error"] or {}
    return {
        "Status": container["state"],
        "Running": container["state"] in ("running", "paused"),
        "Paused": container["state"] == "paused",
        "ExitCode": container["exit_code"] or 0,
        "Error": ": ".join(error[name] for name in ("brief", "details") if error.get(name)),
        "StartedAt": container["started_at"] or _NEVER,
        "FinishedAt": container["finished_at"] or _NEVER,
        "Health": _health(container.get("health_report")),
    }


def _health(report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if report is None:
        return None
    return {
        "Status": report["status"],
        "FailingStreak": report["failing_streak"],
        "Log": [
            {
                "Start": probe["started_at"],
                "End": probe["ended_at"],
                "ExitCode": probe["exit_code"],
                "Output": probe["output"],
            }
            for probe in report["probes"]
        ],
    }

"""What the client returns about workers: frozen, typed, with the answer as it came in ``raw``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


@dataclass(frozen=True, slots=True)
class Worker:
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

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        return cls(
            id=raw["id"],
            name=raw["name"],
            image=raw["image"],
            state=raw["state"],
            command=None if raw["command"] is None else tuple(raw["command"]),
            network=raw["network"],
            docker_id=raw["docker_id"],
            paused_into=raw["paused_into"],
            exit_code=raw["exit_code"],
            error=raw["error"],
            created_at=datetime.fromisoformat(raw["created_at"]),
            heard_at=_time(raw["heard_at"]),
            paused_at=_time(raw["paused_at"]),
            resumed_at=_time(raw["resumed_at"]),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    id: str
    name: str
    state: str
    created_at: datetime
    size_bytes: int
    duration_s: float
    processes: int
    tcp_connections: int
    left_running: bool
    automatic: bool
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        return cls(
            id=raw["id"],
            name=raw["name"],
            state=raw["state"],
            created_at=datetime.fromisoformat(raw["created_at"]),
            size_bytes=raw["size_bytes"],
            duration_s=raw["duration_s"],
            processes=raw["processes"],
            tcp_connections=raw["tcp_connections"],
            left_running=raw["left_running"],
            automatic=raw["automatic"],
            raw=raw,
        )

"""Progress of an image pull, emitted as events at intervals that a person can follow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from warmboot.manager.core.event_log import EventLog

_INTERVAL_S = 0.5


class PullProgress:
    """Called with Docker's messages of one pull; emits ``container.pull`` with byte counts."""

    def __init__(self, events: EventLog, container_id: UUID) -> None:
        self._events = events
        self._container_id = container_id
        self._layers: dict[str, tuple[int, int]] = {}
        self._next_s = 0.0

    async def __call__(self, message: Mapping[str, Any]) -> None:
        detail = message.get("progressDetail") or {}
        if message.get("status") != "Downloading" or "current" not in detail:
            return
        current = int(detail["current"])
        self._layers[str(message.get("id"))] = (current, int(detail.get("total", current)))
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _INTERVAL_S
        done = sum(current for current, _ in self._layers.values())
        total = sum(total for _, total in self._layers.values())
        await self._events.emit("container.pull", self._container_id, bytes=done, total_bytes=total)

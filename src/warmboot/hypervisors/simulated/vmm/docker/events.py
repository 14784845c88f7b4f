"""Docker's events: the last ones are kept in RAM, all are streamed to who listens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

KEPT = 256


class EventLog:
    def __init__(self, kept: list[dict[str, Any]]) -> None:
        self._kept = kept
        self._listeners: set[asyncio.Queue[dict[str, Any]]] = set()

    def emit(self, kind: str, action: str, subject: str, attributes: Mapping[str, str]) -> None:
        moment = time.time_ns()
        event = {
            "status": action,
            "id": subject,
            "from": attributes.get("image", ""),
            "Type": kind,
            "Action": action,
            "Actor": {"ID": subject, "Attributes": dict(attributes)},
            "scope": "local",
            "time": moment // 10**9,
            "timeNano": moment,
        }
        self._kept.append(event)
        del self._kept[:-KEPT]
        for listener in self._listeners:
            listener.put_nowait(event)

    async def stream(self, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Events as JSON lines; ``since`` replays kept ones, ``until`` ends, ``filters`` filter."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        if "since" in query:
            for event in self._kept:
                if event["timeNano"] >= float(query["since"]) * 1e9:
                    queue.put_nowait(event)
        self._listeners.add(queue)
        try:
            ends = float(query["until"]) if "until" in query else None
            while (found := await _next(queue, ends)) is not None:
                if _matches(found, query.get("filters", "")):
                    yield json.dumps(found).encode() + b"\n"
        finally:
            self._listeners.discard(queue)


async def _next(queue: asyncio.Queue[dict[str, Any]], ends: float | None) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(None if ends is None else max(0.0, ends - time.time())):
            return await queue.get()
    except TimeoutError:
        return None


def _matches(event: dict[str, Any], filters: str) -> bool:
    wanted = json.loads(filters) if filters else {}
    seen = {
        "type": [event["Type"]],
        # Docker finds "health_status: healthy" by what is before the colon, too.
        "event": [event["Action"], event["Action"].partition(":")[0]],
        "container": [event["id"], event["Actor"]["Attributes"].get("name", "")],
        "image": [event["from"]],
    }
    # Docker takes both {"type": ["container"]} and {"type": {"container": true}}.
    return all(
        any(value in seen.get(name, []) for value in values) for name, values in wanted.items()
    )

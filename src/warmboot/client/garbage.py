"""The client's methods for garbage collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from warmboot.client.decode import item
from warmboot.client.transport import Transport


@dataclass(frozen=True, slots=True)
class Garbage:
    """``why`` is short and stable, ``reason`` the same in words."""

    kind: str
    name: str
    why: str
    reason: str
    size_bytes: int
    path: str | None


@dataclass(frozen=True, slots=True)
class Collection:
    """The garbage that was removed (in a dry run: would be), and what could not be removed."""

    dry_run: bool
    removed: tuple[Garbage, ...]
    kept: tuple[Garbage, ...]
    freed_bytes: int
    seconds: float
    raw: Mapping[str, Any] = field(repr=False)


class GarbageCollector:
    """What is not needed any more, and its removal."""

    def __init__(self, link: Transport) -> None:
        self._link = link

    async def collect(self, *, dry_run: bool = False) -> Collection:
        """Remove all garbage, or with ``dry_run`` only list what would be removed."""
        answer = await self._link.post("/v1/gc", {"dry_run": dry_run})
        return item(Collection, answer)

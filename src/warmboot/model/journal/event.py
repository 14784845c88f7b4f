"""An event: something that happened to one resource, with its place in the order of all events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """``id`` grows by one an event. ``kind`` is ``<noun>.<what>``, e.g. ``container.running``."""

    id: int
    at: datetime
    kind: str
    subject_id: str
    data: Mapping[str, Any] = field(default_factory=dict)

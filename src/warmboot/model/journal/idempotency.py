"""The result of reserving an idempotency key: the first request does the work.

reserve ──▶ Reserved ──▶ the work is done ──▶ later requests: Done
                └──────▶ it came to nothing ─▶ as if it had never been reserved
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reserved:
    """The key is the caller's: do the work, then ``complete`` or ``abandon``."""


@dataclass(frozen=True, slots=True)
class Running:
    """The first request is still at work."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key was used for another request."""


@dataclass(frozen=True, slots=True)
class Done:
    """The answer that the first request got."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Reservation = Reserved | Running | Mismatch | Done

"""The time that a warm boot saved, compared with a measured cold boot, never with an estimate."""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import median
from typing import Any

from warmboot.model.tenants.boot import FallbackReason

_KEEP = 32
_TRIED_WARM_FIRST = frozenset(
    {
        FallbackReason.SNAPSHOT_DAMAGED,
        FallbackReason.RESTORE_FAILED,
        FallbackReason.DOCKER_NOT_VERIFIED,
        FallbackReason.SNAPSHOT_WAIT_TIMEOUT,
    }
)


class ColdBoots:
    """Seconds of the last cold boots by shape; those that lost time on a warm try do not count."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, ...], deque[float]] = defaultdict(
            lambda: deque(maxlen=_KEEP)
        )

    def add(self, shape: Any, reason: str, seconds: float) -> None:
        if shape and reason not in _TRIED_WARM_FIRST:
            self._seconds[tuple(shape)].append(seconds)

    def saved_s(self, shape: Any, own_cold_s: float | None, seconds: float) -> float:
        """Against the snapshot's own cold boot, measured on a host like this one when it was built
        (never in the background); where that is not known, the median of cold boots of this shape;
        without either 0.
        """
        known = self._seconds.get(tuple(shape or ()))
        cold_s = own_cold_s or (median(known) if known else seconds)
        return max(0.0, cold_s - seconds)

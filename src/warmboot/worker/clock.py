"""Notices that this process was paused and resumed, by comparing two clocks.

A restored process finds its monotonic clock where it left it, for CRIU puts it into a time
namespace (and a machine that slept did not count either), while the wall clock has gone on. So the
wall clock that gains on the monotonic one is the sign. A loop that was merely blocked does not give
it; a wall clock that somebody sets forward does, and what follows from it (fresh connections) is
cheap.
"""

from __future__ import annotations

import time
from collections.abc import Callable

MIN_AWAY_S = 1.0
"""A wall clock is stepped by less than this in ordinary life; shorter pauses go unnoticed."""


class AwayClock:
    """Asked now and then, says for how long the process was away since it was last asked."""

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._offset_s = wall() - monotonic()

    def away_s(self) -> float:
        """Seconds away since the last call; 0.0 when it was not away."""
        offset_s = self._wall() - self._monotonic()
        gained_s, self._offset_s = offset_s - self._offset_s, offset_s
        return gained_s if gained_s > MIN_AWAY_S else 0.0

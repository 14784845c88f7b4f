"""Pauses between attempts, where nothing tells that the next one would succeed."""

from __future__ import annotations

import asyncio


class BackOff:
    """Pauses that double from ``first_s`` up to ``longest_s``."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self.next_s = first_s

    def take_s(self) -> float:
        """The pause that is due; the next one is longer."""
        due_s = self.next_s
        self.next_s = min(2 * due_s, self._longest_s)
        return due_s

    async def pause(self) -> None:
        await asyncio.sleep(self.take_s())

    def reset(self) -> None:
        """Begin with the first pause again, after an attempt that succeeded."""
        self.next_s = self._first_s

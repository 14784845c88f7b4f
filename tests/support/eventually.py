"""Waiting for what happens in its own time and tells nobody, as in another process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_S = 120.0


async def eventually(
    look: Callable[[], Awaitable[T | None]], what: str = "", timeout_s: float = TIMEOUT_S
) -> T:
    """What ``look`` finds, which is neither nothing nor empty.

    It looks more seldom the longer it takes, as looking is work, too.
    """
    deadline, pause_s = time.monotonic() + timeout_s, 0.01
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < deadline, f"did not happen in {timeout_s:g} s: {what}"
        await asyncio.sleep(pause_s)
        pause_s = min(1.2 * pause_s, 0.1)


def until_blocking(holds: Callable[[], bool], what: str = "", timeout_s: float = TIMEOUT_S) -> None:
    """Return when it holds; for what runs in no event loop."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"did not happen in {timeout_s:g} s: {what}"
        time.sleep(0.01)  # as above


async def until(holds: Callable[[], bool], what: str = "", timeout_s: float = TIMEOUT_S) -> None:
    """Return when it holds."""

    async def look() -> bool:
        return bool(holds())

    await eventually(look, what, timeout_s)

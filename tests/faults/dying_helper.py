"""Helper processes that end in the middle of what they write, or their manager does.

``system.low_priority`` runs heavy work in such a process. ``dying("helper")`` takes the place of
its ``run_at_low_priority``: the helper gets half of its first write onto the disk, and then SIGKILL
comes, for itself or for the ``"manager"`` that waits for it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from warmboot.host.snapshots import memory_frames
from warmboot.system.low_priority import LowPriorityRunner, run_at_low_priority

T = TypeVar("T")

Victim = Literal["helper", "manager"]


def dying(victim: Victim) -> LowPriorityRunner:
    async def run(function: Callable[..., T], *arguments: Any) -> T:
        return await run_at_low_priority(_midway, victim, function, *arguments)

    return run


def _midway(victim: Victim, function: Callable[..., T], *arguments: Any) -> T:
    """In the helper process."""
    write_all = memory_frames.write_at

    def half(file: int, content: memoryview, offset: int) -> None:
        write_all(file, content[: len(content) // 2], offset)
        os.kill(os.getpid() if victim == "helper" else os.getppid(), signal.SIGKILL)
        signal.pause()  # with its manager gone, the kernel ends a helper

    memory_frames.write_at = half
    return function(*arguments)

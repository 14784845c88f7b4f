"""Processes of others, by pid and start time: a pid alone may be somebody else's by now."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from warmboot.system import procfs

_START_TIME = 19
"""Of proc(5)'s fields after the name: when it began, in clock ticks since boot."""


def open_process(pid: int, start_time_ticks: int) -> int | None:
    """A pidfd of it, to be closed; ``None`` if it is no more."""
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, OverflowError):
        return None
    try:
        # It is held: nobody else can get its number after this look.
        fields = procfs.stat_fields(Path(f"/proc/{pid}"))
        if int(fields[_START_TIME]) == start_time_ticks and fields[0] not in "ZX":
            return pidfd
    except OSError:
        pass
    os.close(pidfd)
    return None


async def wait_ended(pid: int, start_time_ticks: int) -> None:
    """Return when it is no more."""
    pidfd = open_process(pid, start_time_ticks)
    if pidfd is None:
        return
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)

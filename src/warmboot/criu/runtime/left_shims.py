"""The shim of a container that ended, or was being started, while its engine was away.

dockerd deletes the task of a container that has ended. One that was killed, and containerd with it,
does not learn of that end: the shim goes on with a dead task, and each later start of the container
is refused, as the task "already exists". ``ctr`` cannot delete it, since dockerd has removed
containerd's record of the container. But containerd forgets the task when its shim is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from pathlib import Path

from warmboot.system import procfs

SHIM = "containerd-shim-runc-v2"
ENDS_WITHIN_S = 10.0
_PROC = Path("/proc")


def is_kept(details: str, container_id: str) -> bool:
    """Whether an error's ``details`` say that containerd still has the container's task."""
    return container_id in details and "already exists" in details


async def end_shim(container_id: str) -> bool:
    """End the shim of a container of which no process lives; whether there was one."""
    return await asyncio.to_thread(_end, container_id)


def _end(container_id: str) -> bool:
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or not _is_shim(entry, container_id):
            continue
        with contextlib.suppress(ProcessLookupError):
            held = os.pidfd_open(int(entry.name))
            try:
                if _is_shim(entry, container_id):  # the one that is held
                    signal.pidfd_send_signal(held, signal.SIGKILL)
                    select.select([held], [], [], ENDS_WITHIN_S)
                    return True
            finally:
                os.close(held)
    return False


def _is_shim(process: Path, container_id: str) -> bool:
    with contextlib.suppress(OSError):
        words = procfs.arguments(process)
        return bool(words) and Path(words[0]).name == SHIM and container_id in words
    return False

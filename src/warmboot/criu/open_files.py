"""Open files that CRIU cannot save and cannot name either, looked for before a dump."""

from __future__ import annotations

import contextlib
from pathlib import Path

from warmboot.criu.continuity import descendants
from warmboot.docker.facts import ContainerFacts
from warmboot.model.errors import CheckpointRefused
from warmboot.system import procfs

_IO_URING = "anon_inode:[io_uring]"


def refuse_io_uring(container: ContainerFacts) -> None:
    """``CheckpointRefused``: the kernel hands such a file to nobody, so CRIU cannot name it."""
    users = io_uring_users(container.pid)
    if users:
        which = ", ".join(f"{pid} ({name})" for pid, name in sorted(users.items()))
        raise CheckpointRefused(
            f"{container.name} cannot be paused as it is: it uses io_uring; it keeps running",
            details=f"process {which}; CRIU cannot save io_uring",
            resolution="turn it off in the program (Node.js and all on libuv: UV_USE_IO_URING=0)",
        )


def io_uring_users(pid: int, proc: Path = Path("/proc")) -> dict[int, str]:
    """The processes from ``pid`` downwards that have one open, with their names."""
    found = {}
    for one in (pid, *descendants(pid, proc)):
        with contextlib.suppress(OSError):
            if any(path == _IO_URING for _, path in procfs.open_files(proc / str(one))):
                found[one] = procfs.name(proc / str(one))
    return found

"""To whom an engine may belong, and which process may hold it."""

from __future__ import annotations

import os

from warmboot.model.errors import InvalidRequest, NotFound
from warmboot.model.tenants.engine import EngineSpec
from warmboot.system.procfs import open_process


def check_holder(spec: EngineSpec) -> None:
    """``NotFound`` if the process that is to hold it is not there."""
    if spec.holder is None:
        return
    pidfd = open_process(spec.holder.pid, spec.holder.start_time_ticks)
    if pidfd is None:
        raise NotFound(
            f"there is no process {spec.holder.pid} here that could hold an engine",
            details="there is none of this number and start time on the manager's machine",
            resolution="leave the holder out: the process may be in a container",
        )
    os.close(pidfd)


def check_owner(spec: EngineSpec) -> None:
    """Only root can give a file to somebody else."""
    if os.geteuid() not in (0, spec.owner_uid):
        raise InvalidRequest(
            "this manager's engines belong to its own user",
            details=f"it runs as uid {os.geteuid()}, and cannot give a socket to {spec.owner_uid}",
            resolution="leave the owner out, or run the manager as root",
        )

"""Processes that CRIU cannot dump, and for which it waits or gives no reason: looked for before.

None of this disturbs the worker: it is not frozen yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from warmboot.criu.continuity import descendants, goes_on_without_first_thread, tracer_of
from warmboot.criu.runtime_work import members, stopped_in
from warmboot.docker.facts import ContainerFacts, EngineFacts
from warmboot.model.errors import CheckpointRefused, Conflict
from warmboot.system import procfs

_IO_URING = "anon_inode:[io_uring]"
_PROC = Path("/proc")


def refuse_processes(facts: EngineFacts, container: ContainerFacts) -> None:
    """``Conflict``, ``CheckpointRefused``."""
    refuse_stopped(facts, container)
    refuse_traced(container)
    refuse_without_first_thread(container)
    refuse_io_uring(container)


def refuse_stopped(facts: EngineFacts, container: ContainerFacts) -> None:
    """``Conflict``: such a process cannot be seized any more once its cgroup is frozen.

    CRIU would wait for it, unkillable by anything but SIGKILL, and the container would stay frozen.
    """
    if facts.cgroup_version != "1":
        return
    stopped = stopped_in(container.id, container.pid)
    if stopped:
        raise Conflict(
            f"{container.name} cannot be paused now; it keeps running",
            details=f"stopped by a signal: process {_shown(stopped)}. With cgroups version 1, CRIU "
            "cannot dump a stopped process",
            resolution="continue it (`kill -CONT`) or end it, then pause again; cgroups version 2 "
            "does not have this limitation",
        )


def refuse_traced(container: ContainerFacts, proc: Path = _PROC) -> None:
    """``CheckpointRefused``: a process has one tracer at most, and CRIU would wait to become it."""
    traced: dict[int, str] = {}
    for one in members(container.id, container.pid, proc):
        with contextlib.suppress(OSError):
            if tracer := tracer_of(one, proc):
                name = procfs.name(proc / str(tracer))
                traced[one] = f"{procfs.name(proc / str(one))}, traced by {tracer}, {name}"
    if traced:
        raise CheckpointRefused(
            f"{container.name} cannot be paused now; it keeps running",
            details=f"a debugger or tracer is attached: process {_shown(traced)}",
            resolution="detach it (strace, gdb), then pause again",
        )


def refuse_without_first_thread(container: ContainerFacts, proc: Path = _PROC) -> None:
    """``CheckpointRefused``: runc and CRIU take such a process for one that has ended."""
    found: dict[int, str] = {}
    for one in members(container.id, container.pid, proc):
        with contextlib.suppress(OSError):
            if goes_on_without_first_thread(one, proc):
                found[one] = procfs.name(proc / str(one))
    if found:
        raise CheckpointRefused(
            f"{container.name} cannot be paused as it is; it keeps running",
            details=f"the first thread of process {_shown(found)} has ended, and others go on: "
            "CRIU cannot save that",
            resolution="have the program's main thread wait for the others, and not end by itself "
            "(pthread_exit)",
        )


def refuse_io_uring(container: ContainerFacts) -> None:
    """``CheckpointRefused``: the kernel hands such a file to nobody, so CRIU cannot name it."""
    users = io_uring_users(container.pid)
    if users:
        raise CheckpointRefused(
            f"{container.name} cannot be paused as it is: it uses io_uring; it keeps running",
            details=f"process {_shown(users)}; CRIU cannot save io_uring",
            resolution="turn it off in the program (Node.js and all on libuv: UV_USE_IO_URING=0)",
        )


def io_uring_users(pid: int, proc: Path = _PROC) -> dict[int, str]:
    """The processes from ``pid`` downwards that have one open, with their names."""
    found = {}
    for one in (pid, *descendants(pid, proc)):
        with contextlib.suppress(OSError):
            if any(path == _IO_URING for _, path in procfs.open_files(proc / str(one))):
                found[one] = procfs.name(proc / str(one))
    return found


def _shown(processes: Mapping[int, str]) -> str:
    return ", ".join(f"{pid} ({name})" for pid, name in sorted(processes.items()))

"""What a dump or restore that failed comes from, in words of ours; CRIU's own lines follow them.

CRIU *refuses* what it cannot put into a checkpoint, or cannot bring back as things stand: that is a
``CheckpointRefused``, and the same again until the worker or its surroundings change. Everything
else is a ``CheckpointError``: something failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from warmboot.model.errors import (
    CheckpointError,
    CheckpointRefused,
    CheckpointTimeout,
    DiskFull,
    WarmbootError,
)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What CRIU says of it, and what that means."""

    said: tuple[str, ...]
    reason: str
    remedy: str


_BAD_SIZE = re.compile(r"File (.+) has bad size (\d+) \(expect (\d+)\)")
_AGAIN = "pause it again when that is over"
_OF_DUMPS = (
    _Refusal(
        ("External socket is used", "half of stream unix connection", "external dgram socket"),
        "a process in it has a connection (Unix socket) to a program outside of it",
        "close the connection, or mount no sockets of this machine into it, then pause it again",
    ),
    _Refusal(
        ("Connected TCP socket, consider",),
        "it has TCP connections, and this engine's CRIU is not set up to keep them",
        "put tcp-established into /etc/criu/runc.conf (`warmboot doctor --fix`)",
    ),
    _Refusal(
        ("file locks are hold",),
        "a process in it holds a file lock, and this engine's CRIU is not set up to keep it",
        f"release the lock, or put file-locks into /etc/criu/runc.conf; {_AGAIN}",
    ),
    _Refusal(
        ("ghost file",),
        "a process in it has a large file open that was deleted",
        f"close the file, or raise ghost-limit in /etc/criu/runc.conf; {_AGAIN}",
    ),
    _Refusal(
        ("dangling tty",),
        "a process in it uses a terminal that is not the worker's own",
        f"end what was started in a terminal (docker exec -t); {_AGAIN}",
    ),
    _Refusal(
        ("io_uring", "io-uring", "Can't retrieve FDs from socket"),
        "a process in it has a file that the kernel hands to nobody, as io_uring's, so it cannot "
        "be put into a checkpoint",
        "switch io_uring off in the program, then pause it again",
    ),
    _Refusal(
        ("Can't dump that handle", "Can't find suitable path for handle"),
        "a process in it watches files (inotify, fanotify) that CRIU cannot find again: on "
        "overlay, the file system of containers, it finds none by what the kernel tells of them",
        "have the program look itself instead (polling), or end it; then pause again",
    ),
    _Refusal(
        ("Can't get rlimit",),
        "it has processes that are not root's, which CRIU may save only with CAP_SYS_RESOURCE; "
        "root lacks that here, as in many containers",
        "run the manager where root has it (`warmboot doctor` says so: other-users), or run the "
        "worker's program as root",
    ),
    _Refusal(
        ("Unable to interrupt task", "is already traced", "traced by"),
        "a debugger or tracer is attached to a process in it",
        f"detach it (strace, gdb); {_AGAIN}",
    ),
    _Refusal(
        ("non-regular mapping", "Unsupported mapping found"),
        "a process in it has the memory of a device mapped, as of a GPU",
        "close the device in the program; what needs it all the time cannot be paused",
    ),
    _Refusal(
        ("Can't lookup mount=",),
        "a process in it has a file open that was opened outside of it, or a POSIX message queue",
        f"end what was started with `docker exec`, or close the queue; {_AGAIN}",
    ),
    _Refusal(
        ("In-flight connection",),
        "a client has connected to it, and it has not accepted that connection yet",
        "pause it again when it has, as it does at once unless it is overloaded or hangs",
    ),
    _Refusal(
        ("of that type [", "Unsupported proto", "Unsupported socket", "Unsupported message size"),
        "a process in it uses a kind of file or socket that cannot be put into a checkpoint",
        "close it in the program, then pause it again; CRIU's lines name it",
    ),
)
_OF_RESTORES = (
    _Refusal(
        ("Can't bind inet socket", "Address already in use"),
        "another process has taken a port of the worker's",
        "stop that process, then resume again",
    ),
    _Refusal(
        ("No mapping for",),
        "the worker's mounts are not those of the checkpoint",
        "create the worker with the same mounts, then resume again",
    ),
    _Refusal(
        ("File r/w", "Can't open file", "has bad size"),
        "a file that the worker had open has changed or is gone",
        "bring the file back, then resume again; without --keep-files those outside of mounts "
        "are as at the checkpoint",
    ),
)


def dump_failure(
    worker: str, fate: str, lines: Sequence[str], error: WarmbootError
) -> WarmbootError:
    """The error of a failed dump; ``fate`` says what has become of the worker."""
    brief = f"{worker} could not be paused; {fate}"
    said = "\n".join((*lines, error.details))
    if isinstance(error, DiskFull) or "No space left on device" in said:
        return DiskFull(
            brief,
            details=said,
            resolution="delete checkpoints, containers or images that are not needed",
        )
    if isinstance(error, CheckpointTimeout):
        return CheckpointTimeout(brief, details=said, resolution=error.resolution)
    if refusal := _known(_OF_DUMPS, lines):
        return _refused(brief, refusal, said)
    if "executable file not found" in said or "criu binary" in said:
        remedy = "install CRIU where the engine finds it (`warmboot doctor --fix`)"
    else:
        remedy = "CRIU's lines say what went wrong; `warmboot doctor` checks the rest"
    return CheckpointError(brief, details=said, resolution=remedy)


def restore_failure(
    worker: str, checkpoint: str, lines: Sequence[str], error: WarmbootError
) -> WarmbootError:
    """The error of a failed restore, which leaves the checkpoint as it was."""
    brief = f"{worker} could not be restored from {checkpoint}; the checkpoint is kept"
    said = "\n".join((*lines, error.details))
    if isinstance(error, DiskFull):
        return DiskFull(brief, details=said, resolution="free some space, then resume again")
    if isinstance(error, CheckpointTimeout):
        return CheckpointTimeout(brief, details=said, resolution=error.resolution)
    if refusal := _known(_OF_RESTORES, lines):
        return _refused(brief, refusal, "\n".join((*_sizes(lines), said)))
    return CheckpointError(
        brief,
        details=said,
        resolution="mend what CRIU's lines say and resume again, or resume from another checkpoint",
    )


def _known(table: Sequence[_Refusal], lines: Sequence[str]) -> _Refusal | None:
    """The first of the table's that CRIU's lines tell of."""
    text = "\n".join(lines)
    return next((one for one in table if any(part in text for part in one.said)), None)


def _sizes(lines: Sequence[str]) -> Iterator[str]:
    """Each file that has another size, in words of ours."""
    for line in lines:
        if found := _BAD_SIZE.search(line):
            path, now, then = found.groups()
            yield f"/{path.lstrip('/')} has {now} bytes; at the checkpoint it had {then}"


def _refused(brief: str, refusal: _Refusal, said: str) -> CheckpointRefused:
    return CheckpointRefused(brief, details=f"{refusal.reason}\n{said}", resolution=refusal.remedy)

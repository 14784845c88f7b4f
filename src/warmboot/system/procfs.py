"""What ``/proc`` says about processes (proc(5)), whatever they call themselves.

A process names itself with any bytes but NUL: neither UTF-8 nor free of what
``str.splitlines`` takes for the end of a line. Errors are the caller's: ``OSError``.

A pid alone may be another process's by now: one of others is known by its start time, too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_START_TIME = 19
"""Of proc(5)'s fields after the name: when it began, in clock ticks since boot."""


def lines(path: Path) -> list[str]:
    """The lines of one of its tables; bytes that are not UTF-8 as ``os.fsdecode`` gives them."""
    text = os.fsdecode(path.read_bytes())
    return text.removesuffix("\n").split("\n") if text else []


def stat_fields(process: Path) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name; the first is the state."""
    return os.fsdecode((process / "stat").read_bytes()).rpartition(")")[2].split()


def arguments(process: Path) -> list[str]:
    """The command line; empty for a zombie and a thread of the kernel."""
    text = os.fsdecode((process / "cmdline").read_bytes())
    return text.rstrip("\0").split("\0") if text else []


def name(process: Path) -> str:
    """What it calls itself, at most 15 bytes, to be shown: what cannot be printed is a "?"."""
    text = (process / "comm").read_bytes().removesuffix(b"\n").decode(errors="replace")
    return "".join(one if one.isprintable() else "?" for one in text)


def open_files(process: Path) -> Iterator[tuple[str, str]]:
    """Number and path of each file that it has open; ``socket:[17]``, where it is none of a disk.

    One that is closed meanwhile is left out. A link is read and never followed: behind some of them
    are files that do not answer.
    """
    with os.scandir(process / "fd") as links:
        for link in links:
            with contextlib.suppress(OSError):  # closed
                yield link.name, os.readlink(link)  # noqa: PTH115 - thousands of them


def start_ticks(pid: int) -> int:
    """The time at which a process began, by which it is told from others of its number."""
    return int(stat_fields(Path(f"/proc/{pid}"))[_START_TIME])


def open_process(pid: int, start_time_ticks: int) -> int | None:
    """A pidfd of it, to be closed; ``None`` if it is no more."""
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, OverflowError):
        return None
    try:
        # It is held: nobody else can get its number after this look.
        fields = stat_fields(Path(f"/proc/{pid}"))
        if int(fields[_START_TIME]) == start_time_ticks and fields[0] not in "ZX":
            return pidfd
    except OSError:
        pass
    os.close(pidfd)
    return None

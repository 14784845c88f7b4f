"""Checks that a restored process is the one that was dumped, and was not started anew.

An engine may report a restore as done and have started the container from the beginning (moby
41639). At ``exec`` the kernel gives every process 16 random bytes in its own memory and places its
stack, heap and arguments at random: a process that has the same ones as the dump has the dump's
memory. A fresh one has others.

The first process of the container is looked at first. When it differs the others are: a worker may
have executed another program in the moment since.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from warmboot.criu.images import AT_RANDOM, RANDOM_BYTES, DumpFacts, ProcessImage, unreadable
from warmboot.system import procfs

_LOOKS, _BETWEEN_LOOKS_S = 50, 0.002
"""A process that is just executing a program has no memory to look at for a moment."""

_STACK, _HEAP, _ARGUMENTS = 25, 44, 45  # proc(5) fields 28, 47, 48, counted after the name


class Continuity(StrEnum):
    """How a restored container compares with its dump; ``ended``: no process is left."""

    SAME = "same"
    FRESH = "fresh"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class LiveProcess:
    """The same of a running process as ``ProcessImage`` has of a dumped one."""

    layout: tuple[int, int, int]
    secret_address: int
    secret: bytes


def compare(dump: DumpFacts, pid: int, proc: Path = Path("/proc")) -> Continuity:
    """Compare the container whose first process is ``pid`` on this host with its dump."""
    live = look_at(pid, proc)
    if live is None:
        return Continuity.ENDED
    images = {image.pid: image for image in dump.processes}
    if _same(dump.root, live):
        return Continuity.SAME
    for child in descendants(pid, proc):
        image = images.get(inner_pid(child, proc))
        found = look_at(child, proc)
        if image is not None and found is not None and _same(image, found):
            return Continuity.SAME
    return Continuity.FRESH if look_at(pid, proc) else Continuity.ENDED


def _same(image: ProcessImage, live: LiveProcess) -> bool:
    if image.layout != live.layout or image.secret_address != live.secret_address:
        return False
    return image.secret is None or image.secret == live.secret


def look_at(pid: int, proc: Path = Path("/proc")) -> LiveProcess | None:
    """What makes a running process recognisable; ``None`` when it is no more."""
    for _ in range(_LOOKS):
        if (found := _look(proc / str(pid))) is not None or _is_over(pid, proc):
            return found
        time.sleep(_BETWEEN_LOOKS_S)
    return None


def has_ended(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether nothing of a process runs any more; it may not have been waited for."""
    return look_at(pid, proc) is None and not goes_on_without_first_thread(pid, proc)


def goes_on_without_first_thread(pid: int, proc: Path = Path("/proc")) -> bool:
    """Its first thread has ended, for which the kernel shows it as a zombie, and others run."""
    if _status(pid, "State", proc).strip()[:1] != "Z":
        return False
    return int(_status(pid, "Threads", proc) or "1") > 1


def tracer_of(pid: int, proc: Path = Path("/proc")) -> int:
    """Who traces it (ptrace); 0 when nobody does."""
    return int(_status(pid, "TracerPid", proc) or "0")


def _is_over(pid: int, proc: Path) -> bool:
    return _status(pid, "State", proc).strip()[:1] in ("", "Z", "X")


def _look(folder: Path) -> LiveProcess | None:
    """``None``: it has no memory, now or any more."""
    try:
        fields = procfs.stat_fields(folder)
        numbers = (folder / "auxv").read_bytes()
        words = [int.from_bytes(numbers[at : at + 8], "little") for at in range(0, len(numbers), 8)]
        address = dict(zip(words[::2], words[1::2], strict=False)).get(AT_RANDOM, 0)
        if fields[0] in "ZX" or not address:
            return None
        descriptor = os.open(folder / "mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            secret = os.pread(descriptor, RANDOM_BYTES, address)
        finally:
            os.close(descriptor)
    except PermissionError as error:
        raise unreadable(error) from error
    except OSError:  # gone, or going: its memory cannot be read any more
        return None
    layout = (int(fields[_STACK]), int(fields[_HEAP]), int(fields[_ARGUMENTS]))
    return LiveProcess(layout, address, secret)


def descendants(pid: int, proc: Path = Path("/proc")) -> Iterator[int]:
    """The processes below ``pid``, as the kernel lists them at this moment."""
    try:
        tasks = list((proc / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return
    for task in tasks:
        try:
            children = (task / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            yield int(child)
            yield from descendants(int(child), proc)


def inner_pid(pid: int, proc: Path = Path("/proc")) -> int:
    """A process's id in its own innermost pid namespace; 0 when it is no more."""
    return int((_status(pid, "NSpid", proc).split() or ["0"])[-1])


def memory_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """About what a dump of ``pid`` and all below it will hold: memory that no file backs."""
    total = 0
    for one in (pid, *descendants(pid, proc)):
        for key in ("RssAnon", "RssShmem", "VmSwap"):
            total += int((_status(one, key, proc).split() or ["0"])[0]) * 1024
    return total


def _status(pid: int, key: str, proc: Path) -> str:
    try:
        lines = procfs.lines(proc / str(pid) / "status")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next((line.split(":", 1)[1] for line in lines if line.startswith(key)), "")

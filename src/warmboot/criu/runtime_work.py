"""Processes of an OCI runtime that dump or restore a container: found, and ended.

    dockerd ─▶ containerd ─▶ shim ─▶ runc checkpoint|restore … <container> ─▶ criu

While the runtime works, the shim answers nothing else for that container: a kill waits behind a
dump that hangs. So it is the runtime's children, CRIU, that are ended, which the runtime then tells
as a failure upwards. CRIU's parasite in a dumped process notices that CRIU is gone and gives
the process back to itself; its cgroup stays frozen, and is thawed by us.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from warmboot.criu.continuity import descendants, goes_on_without_first_thread
from warmboot.system import procfs

WORKS = (b"checkpoint", b"restore")
END_TIMEOUT_S = 5.0
_FROZEN_WITHIN_S, _FROZEN_LOOKS_EVERY_S = 0.05, 0.001
_PROC = Path("/proc")
_COUNTED = (b"rchar", b"wchar")

Progress = frozenset[tuple[int, int]]


def runtimes_at_work(container_id: str, proc: Path = _PROC) -> list[int]:
    """The runtime's processes that dump or restore the container."""
    found = []
    for entry in proc.iterdir():
        if entry.name.isdigit() and _works_on(entry, container_id.encode()):
            found.append(int(entry.name))
    return found


def progress(container_id: str, proc: Path = _PROC) -> Progress:
    """How many bytes each process of that work has read and written."""
    seen = set()
    for runtime in runtimes_at_work(container_id, proc):
        for pid in (runtime, *descendants(runtime, proc)):
            with contextlib.suppress(OSError):
                lines = (proc / str(pid) / "io").read_bytes().splitlines()
                counts = dict(line.split(b": ") for line in lines)
                seen.add((pid, sum(int(counts[name]) for name in _COUNTED)))
    return frozenset(seen)


async def end_work(container_id: str, pid: int) -> None:
    """End what dumps or restores the container, and thaw it. Idempotent.

    ``pid`` is the container's first process, 0 when it has none.
    """
    await asyncio.to_thread(_end, container_id)
    if pid:
        await asyncio.to_thread(thaw, container_id, pid)


def end_in(folder: Path, proc: Path = _PROC) -> None:
    """Kill what works in ``folder``: a CRIU whose runtime was killed goes on by itself."""
    _end_all(lambda: [pid for pid in _alive(proc) if _works_in(proc / str(pid), folder)])


def end_members(container_id: str, proc: Path = _PROC) -> None:
    """Kill what is in a container's cgroup, of a container that does not run.

    A restore that broke off leaves processes that no engine knows.
    """
    _end_all(lambda: [pid for pid in _alive(proc) if _is_member(proc / str(pid), container_id)])


def end_without_first_thread(pid: int) -> bool:
    """Kill a process whose first thread has ended and of which others go on; whether it was one.

    runc takes it for one that is over, and so an engine can neither stop nor remove its container.
    """
    with _held(pid) as held, contextlib.suppress(ProcessLookupError):
        if held is not None and goes_on_without_first_thread(pid):
            signal.pidfd_send_signal(held, signal.SIGKILL)
            return bool(select.select([held], [], [], END_TIMEOUT_S)[0])
    return False


def ends_within(pid: int, limit_s: float) -> bool:
    with _held(pid) as held:
        return held is None or bool(select.select([held], [], [], limit_s)[0])


def _end_all(find: Callable[[], list[int]]) -> None:
    """Until none is found; a process may make another one just before it is killed."""
    deadline_s = time.monotonic() + END_TIMEOUT_S
    while (found := find()) and time.monotonic() < deadline_s:
        for pid in found:
            with _held(pid) as held, contextlib.suppress(ProcessLookupError):
                if held is not None and pid in find():
                    signal.pidfd_send_signal(held, signal.SIGKILL)
                    select.select([held], [], [], END_TIMEOUT_S)


def _alive(proc: Path) -> Iterator[int]:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if procfs.stat_fields(entry)[0] not in "ZX":
                    yield int(entry.name)


def _works_in(process: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return (process / "cwd").readlink() == folder
    return False


def _is_member(process: Path, container_id: str) -> bool:
    with contextlib.suppress(OSError):
        return any(container_id in line for line in procfs.lines(process / "cgroup"))
    return False


def thaw(container_id: str, pid: int, proc: Path = _PROC) -> bool:
    """Let the container's cgroup run; whether it was frozen. Without an effect elsewhere."""
    for state, frozen, running in _freezers(container_id, pid, proc):
        with contextlib.suppress(OSError):
            if state.read_text().strip() in frozen:
                state.write_text(running)
                return True
    return False


def freeze(container_id: str, pid: int, proc: Path = _PROC) -> bool:
    """Stop the container's cgroup, with cgroups of version 1; whether it is this call's doing.

    CRIU would do so too, but looks at it again only after a tenth of a second. What takes longer
    is left to CRIU.
    """
    for controllers, folder in _cgroups(container_id, pid, proc):
        if controllers == "freezer":
            state = folder / "freezer.state"
            with contextlib.suppress(OSError):
                if state.read_text().strip() != "THAWED":
                    return False
                state.write_text("FROZEN")
                deadline_s = time.monotonic() + _FROZEN_WITHIN_S
                while state.read_text().strip() != "FROZEN" and time.monotonic() < deadline_s:
                    time.sleep(_FROZEN_LOOKS_EVERY_S)
                return True
    return False


def stopped_in(container_id: str, pid: int, proc: Path = _PROC) -> dict[int, str]:
    """The processes in the container's cgroup that a signal has stopped, with their names."""
    found: dict[int, str] = {}
    for one in members(container_id, pid, proc):
        with contextlib.suppress(OSError):
            process = proc / str(one)
            if procfs.stat_fields(process)[0] == "T":
                found[one] = procfs.name(process)
    return found


def members(container_id: str, pid: int, proc: Path = _PROC) -> set[int]:
    """All processes of the container whose first one is ``pid``: those below that, and those that
    were started beside it (``docker exec``).
    """
    return {pid, *descendants(pid, proc), *_in_cgroup(container_id, pid, proc)}


def _works_on(process: Path, container_id: bytes) -> bool:
    try:
        words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return False
    return container_id in words[1:] and any(word in words[1:] for word in WORKS)


def _end(container_id: str) -> None:
    """CRIU first, so that the runtime says what became of it; then the runtime, if it stays."""
    for runtime in runtimes_at_work(container_id):
        with _held(runtime) as held:
            if held is None or not _works_on(_PROC / str(runtime), container_id.encode()):
                continue
            for child in list(descendants(runtime)):
                with _held(child) as below, contextlib.suppress(ProcessLookupError):
                    if below is not None and child in descendants(runtime):
                        signal.pidfd_send_signal(below, signal.SIGKILL)
            if not select.select([held], [], [], END_TIMEOUT_S)[0]:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(held, signal.SIGKILL)


@contextlib.contextmanager
def _held(pid: int) -> Iterator[int | None]:
    """A pidfd: what is asked of the process after that is of this one, and of no later one."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _freezers(
    container_id: str, pid: int, proc: Path
) -> Iterator[tuple[Path, tuple[str, ...], str]]:
    """The files that freeze the container: what frozen is called in it, and what running."""
    for controllers, folder in _cgroups(container_id, pid, proc):
        if controllers == "freezer":
            yield folder / "freezer.state", ("FROZEN", "FREEZING"), "THAWED"
        elif not controllers:
            yield folder / "cgroup.freeze", ("1",), "0"


def _in_cgroup(container_id: str, pid: int, proc: Path) -> list[int]:
    for controllers, folder in _cgroups(container_id, pid, proc):
        if controllers in ("freezer", ""):
            with contextlib.suppress(OSError):
                return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    return []


def _cgroups(container_id: str, pid: int, proc: Path) -> Iterator[tuple[str, Path]]:
    """The container's own cgroups, by controllers (version 2: none), where they are mounted."""
    try:
        lines = procfs.lines(proc / str(pid) / "cgroup")
        mounts = procfs.lines(proc / "self" / "mounts")
    except OSError:
        return
    places: dict[str, Path] = {}
    for words in (line.split(" ") for line in mounts):
        if words[2] == "cgroup2":
            places.setdefault("", Path(words[1]))
        elif words[2] == "cgroup":
            for option in words[3].split(","):
                places.setdefault(option, Path(words[1]))
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if container_id in path and controllers in places:
            yield controllers, places[controllers] / path.lstrip("/")

"""Control groups: one for each VM, with its VMM and all of its helpers in it.

    warmboot.slice / <the manager's prefix> / <the VM's id>

in every hierarchy of version 1 that has a controller of ours, or in the one of version 2. They are
outside the manager's own group, so that VMs outlive its unit; a manager makes, sweeps and removes
what lies below its own prefix and nothing else.

A process joins a group just after its start: a join takes some ten milliseconds (the kernel waits
for all processors), which pass while the VMM comes up.

Only the standard library is imported: tests run this file inside a guest. Errors are ``OSError``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from warmboot.system import procfs

SLICE = "warmboot.slice"
CONTROLLERS = ("cpu", "memory", "pids", "io")
PERIOD_US = 100_000
REMOVE_TIMEOUT_S = 5.0
LAST_WORDS_S = 0.5
"""How long what is left in a group may still write down what a VM has said."""

_V1_NAMES = {"blkio": "io"}
_LOOK_AGAIN_S = 0.005
_LEAST_SHARES, _SHARES = 2, 1024
_LEAST_WEIGHT, _WEIGHT, _MOST_WEIGHT = 1, 100, 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """``cpus`` is processor time a second. A group in the ``background`` yields to the others."""

    memory_bytes: int
    cpus: float
    pids: int
    background: bool = False


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted hierarchy, and which of our controllers it has."""

    path: Path
    version: int
    controllers: frozenset[str]


def find(mounts: Iterable[str]) -> tuple[Hierarchy, ...]:
    """The hierarchies with a controller of ours, from the lines of ``/proc/self/mounts``."""
    found: list[Hierarchy] = []
    taken: set[str] = set()
    for line in mounts:
        _, path, kind, options, *_ = line.split(" ")
        if kind == "cgroup":
            names = {_V1_NAMES.get(name, name) for name in options.split(",")}
            version = 1
        elif kind == "cgroup2":
            names, version = _offered(Path(path)), 2
        else:
            continue
        ours = frozenset(names & set(CONTROLLERS)) - taken
        if ours:
            taken |= ours
            found.append(Hierarchy(Path(path), version, ours))
    return tuple(found)


def here() -> tuple[Hierarchy, ...]:
    """The hierarchies of control groups of this machine."""
    return find(procfs.lines(Path("/proc/self/mounts")))


def usable(hierarchies: Iterable[Hierarchy]) -> tuple[Hierarchy, ...]:
    """The hierarchies that we may write to, with the controllers that a manager could enable."""
    return tuple(
        replace(one, controllers=one.controllers & _switched_on(one))
        for one in hierarchies
        if os.access(one.path, os.W_OK) and not os.statvfs(one.path).f_flag & os.ST_RDONLY
    )


def missing(hierarchies: Iterable[Hierarchy]) -> list[str]:
    """The controllers that no hierarchy has."""
    there = {name for hierarchy in hierarchies for name in hierarchy.controllers}
    return [name for name in CONTROLLERS if name not in there]


def described(hierarchies: Iterable[Hierarchy]) -> str:
    """The hierarchies in words: ``cpu, memory (version 1)``."""
    parts = []
    for version in (1, 2):
        names = {n for h in hierarchies if h.version == version for n in h.controllers}
        if names:
            listed = ", ".join(name for name in CONTROLLERS if name in names)
            parts.append(f"{listed} (version {version})")
    return " and ".join(parts)


class Cgroups:
    """The groups of one manager. All methods block."""

    def __init__(self, prefix: str, hierarchies: Iterable[Hierarchy]) -> None:
        self.prefix = prefix
        self.hierarchies = tuple(hierarchies)
        self._own = Path(SLICE, prefix)

    def prepare(self) -> None:
        """Make the manager's own group, with its controllers switched on for those below it.

        A controller that cannot be switched on is left out; ``missing`` tells of it afterwards.
        """
        self.hierarchies = tuple(
            kept for one in self.hierarchies if (kept := self._prepared(one)).controllers
        )

    def create(self, name: str, limits: Limits) -> None:
        """A group with its limits set. One that is there is kept, and gets these limits."""
        for hierarchy in self.hierarchies:
            group = self._group(hierarchy, name)
            group.mkdir(parents=True, exist_ok=True)
            for file, value in _values(hierarchy, limits):
                _write(group / file, value)

    def join(self, name: str, pid: int, *, background: bool = False) -> None:
        """Move a process with all its threads into a group; nothing happens if it has ended.

        In version 1 a process in the background stays out of the cpu hierarchy: the weight of a
        session, which is the least then, counts only there.
        """
        for hierarchy in self.hierarchies:
            if hierarchy.version == 1 and background and hierarchy.controllers == {"cpu"}:
                continue
            with contextlib.suppress(ProcessLookupError):
                _write(self._group(hierarchy, name) / "cgroup.procs", str(pid))

    def come_first(self, name: str, pid: int) -> None:
        """Take a group, and the process that leads it, out of the background."""
        for hierarchy in self.hierarchies:
            group = self._group(hierarchy, name)
            if "cpu" not in hierarchy.controllers or not group.is_dir():
                continue
            if hierarchy.version == 2:
                _write(group / "cpu.weight", str(_WEIGHT))
            else:
                _write(group / "cpu.shares", str(_SHARES))
                _write(group / "cgroup.procs", str(pid))

    def members(self, name: str) -> set[int]:
        """The processes that are in a group of this name anywhere."""
        found: set[int] = set()
        for hierarchy in self.hierarchies:
            with contextlib.suppress(FileNotFoundError, OSError):
                text = (self._group(hierarchy, name) / "cgroup.procs").read_text()
                found |= {int(pid) for pid in text.split()}
        return found

    def names(self) -> set[str]:
        """The names of all groups of this manager's VMs."""
        found: set[str] = set()
        for hierarchy in self.hierarchies:
            with contextlib.suppress(FileNotFoundError):
                own = hierarchy.path / self._own
                found |= {entry.name for entry in own.iterdir() if entry.is_dir()}
        return found

    def remove(self, name: str) -> None:
        """End what is left in a group, and remove it. Idempotent; ``TimeoutError``."""
        started = time.monotonic()
        while left := [h for h in self.hierarchies if not _removed(self._group(h, name))]:
            waited_s = time.monotonic() - started
            if waited_s > REMOVE_TIMEOUT_S:
                raise TimeoutError(f"{self._group(left[0], name)} still has processes in it")
            if waited_s > LAST_WORDS_S:
                for pid in self.members(name):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(_LOOK_AGAIN_S)

    def tear_down(self) -> None:
        """Remove the manager's own group if nothing is in it, and the slice if nobody needs it."""
        for hierarchy in self.hierarchies:
            for group in (hierarchy.path / self._own, hierarchy.path / SLICE):
                with contextlib.suppress(OSError):
                    group.rmdir()

    def _group(self, hierarchy: Hierarchy, name: str) -> Path:
        return hierarchy.path / self._own / name

    def _prepared(self, hierarchy: Hierarchy) -> Hierarchy:
        top, own = hierarchy.path / SLICE, hierarchy.path / self._own
        switched_on = hierarchy.controllers
        try:
            own.mkdir(parents=True, exist_ok=True)
            if hierarchy.version == 2:
                for group in (hierarchy.path, top, own):
                    switched_on &= _switch_on(group, switched_on)
            if "cpu" in switched_on:
                for group in (top, own):
                    _write(group / _weight_file(hierarchy), _weight_of_all(hierarchy))
        except OSError:  # read-only, or not ours to change
            return replace(hierarchy, controllers=frozenset())
        return replace(hierarchy, controllers=switched_on)


def _offered(group: Path) -> set[str]:
    try:
        return set((group / "cgroup.controllers").read_text().split())
    except OSError:
        return set()


def _switched_on(hierarchy: Hierarchy) -> frozenset[str]:
    if hierarchy.version == 1:
        return hierarchy.controllers
    with contextlib.suppress(OSError):
        below = hierarchy.path / SLICE / "cgroup.subtree_control"
        return frozenset(below.read_text().split())
    return hierarchy.controllers


def _switch_on(group: Path, wanted: Iterable[str]) -> frozenset[str]:
    for name in wanted:
        with contextlib.suppress(OSError):  # processes in the group itself, or not offered here
            _write(group / "cgroup.subtree_control", f"+{name}")
    return frozenset((group / "cgroup.subtree_control").read_text().split())


def _values(hierarchy: Hierarchy, limits: Limits) -> list[tuple[str, str]]:
    quota_us = round(limits.cpus * PERIOD_US)
    v1 = hierarchy.version == 1
    values = {
        "memory": [
            ("memory.limit_in_bytes" if v1 else "memory.max", str(limits.memory_bytes)),
        ],
        "pids": [("pids.max", str(limits.pids))],
        "io": [],  # being in a group of its own is what gives each the same share
        "cpu": [
            ("cpu.cfs_period_us", str(PERIOD_US)),
            ("cpu.cfs_quota_us", str(quota_us)),
            ("cpu.shares", str(_LEAST_SHARES if limits.background else _SHARES)),
        ]
        if v1
        else [
            ("cpu.max", f"{quota_us} {PERIOD_US}"),
            ("cpu.weight", str(_LEAST_WEIGHT if limits.background else _WEIGHT)),
        ],
    }
    return [pair for name in CONTROLLERS if name in hierarchy.controllers for pair in values[name]]


def _weight_file(hierarchy: Hierarchy) -> str:
    return "cpu.shares" if hierarchy.version == 1 else "cpu.weight"


def _weight_of_all(hierarchy: Hierarchy) -> str:
    """All VMs together weigh as much as one process a processor."""
    processors = os.cpu_count() or 1
    if hierarchy.version == 1:
        return str(_SHARES * processors)
    return str(min(_MOST_WEIGHT, _WEIGHT * processors))


def _write(file: Path, value: str) -> None:
    with file.open("w") as opened:
        opened.write(value)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # EBUSY: a process is in it
        return False
    return True

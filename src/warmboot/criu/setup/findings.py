"""The findings about each prerequisite: what is wrong, why it matters, and what to do."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from warmboot.criu.setup.settings_files import has_tcp_established
from warmboot.docker.facts import EngineFacts
from warmboot.model.checkpoint import engine_obstacles, network_obstacles
from warmboot.model.worker import RUNTIME
from warmboot.system import procfs

MIN_FREE_BYTES = 2 << 30
MIN_SCRATCH_BYTES = 1 << 30
_CAP_SYS_RESOURCE = 24  # linux/capability.h
OTHER_NETWORK = "bridge"
"""Stands for all networks but the host's."""

FIX = "`warmboot doctor --fix`"


@dataclass(frozen=True, slots=True)
class Finding:
    """One prerequisite. ``problem``, ``why`` and ``remedy`` are empty when ``ok``.

    ``fixable``: ``fix`` does something about it, and ``remedy`` says so. ``note`` says what was
    found when it is well.
    """

    name: str
    ok: bool
    problem: str = ""
    why: str = ""
    remedy: str = ""
    fixable: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that ``fix`` did, or could not do (``ok`` is false)."""

    what: str
    ok: bool = True
    details: str = ""


def root() -> Finding:
    if os.geteuid() == 0:
        return Finding("root", ok=True)
    return Finding(
        "root",
        ok=False,
        problem="warmboot is not running as root",
        why="checkpoints are in Docker's own folders, and a restored process's memory is read "
        "to prove that it survived",
        remedy="start warmboot as root",
    )


def other_users(own_status: Path = Path("/proc/self/status")) -> Finding:
    """No problem where all workers are root's, and nothing that can be fixed here."""
    if os.geteuid() != 0 or can_save_other_users(own_status):
        return Finding("other-users", ok=True)
    note = "root lacks CAP_SYS_RESOURCE here, so workers with processes that are not root's cannot "
    note += "be paused; if this is a container, start it with --cap-add SYS_RESOURCE"
    return Finding("other-users", ok=True, note=note)


def can_save_other_users(own_status: Path = Path("/proc/self/status")) -> bool:
    """Whether CRIU, started from here, can save processes that are not root's."""
    return _has_capability(own_status, _CAP_SYS_RESOURCE)


def _has_capability(status: Path, number: int) -> bool:
    for line in procfs.lines(status):
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> number & 1)
    return True


def live_restore(engine: EngineFacts) -> Finding:
    """No problem: only a choice that has a consequence for workers."""
    if engine.live_restore:
        return Finding("live-restore", ok=True, note="on: workers go on when dockerd ends")
    note = "off: running workers end when dockerd does, and are resumed from their last checkpoint "
    note += '(`--every`) only by hand; "live-restore": true in daemon.json and a reload turn it on'
    return Finding("live-restore", ok=True, note=note)


def tcp_established(runc_conf: Path) -> Finding:
    if has_tcp_established(runc_conf):
        return Finding("tcp-established", ok=True, note=str(runc_conf))
    return Finding(
        "tcp-established",
        ok=False,
        problem=f"{runc_conf} does not have tcp-established",
        why="a worker that holds a TCP connection, as every one to the manager does, could not "
        "be paused",
        remedy=f"add a line tcp-established to {runc_conf} ({FIX} does it)",
        fixable=True,
    )


def reachable(engine: EngineFacts | None, socket: Path, problem: str) -> Finding:
    if engine is not None:
        return Finding("engine", ok=True, note=f"Docker {engine.version} at {socket}")
    return Finding(
        "engine",
        ok=False,
        problem=f"{socket}: {problem}",
        why="workers are containers of this engine",
        remedy="install Docker (`apt-get install docker.io`) or start it, or name another socket",
    )


def no_criu(problem: str, remedy: str, *, fixable: bool = True) -> Finding:
    why = "CRIU is what writes a process's memory down and brings it back"
    return Finding("criu", ok=False, problem=problem, why=why, remedy=remedy, fixable=fixable)


def criu_not_found(path: str, wrapper: Path) -> Finding:
    problem = f"the engine does not find CRIU: its PATH is {path}"
    remedy = f"start the engine with {wrapper.parent} on its PATH"
    return no_criu(problem, remedy, fixable=False)


def runtime(engine: EngineFacts, current: bool, adds_runtimes: bool, program: Path) -> Finding:
    """``current``: what the engine has registered is there, and of this version."""
    if current:
        return Finding("runtime", ok=True, note=engine.runtimes[RUNTIME])
    why = "without it Docker's own checkpoints are used, which are many times slower and need its "
    why += "experimental mode"
    if engine.rootless:
        problem = "the engine runs without root, so it cannot use warmboot's runtime"
        remedy = "use a Docker engine that runs as root"
        return Finding("runtime", ok=False, problem=problem, why=why, remedy=remedy)
    problem = "the engine does not have warmboot's runtime for workers"
    if RUNTIME in engine.runtimes:
        problem = f"{engine.runtimes[RUNTIME]} is not there, or is of another version of warmboot"
        remedy = f"install it ({FIX} does it)"
    elif adds_runtimes:
        problem += ", and has others on its command line, so daemon.json must have none"
        remedy = f"start dockerd with --add-runtime {RUNTIME}={program}, or move its other runtimes"
        remedy += " into daemon.json"
        return Finding("runtime", ok=False, problem=problem, why=why, remedy=remedy)
    else:
        remedy = f"add it to daemon.json and reload Docker ({FIX} does it)"
    return Finding("runtime", ok=False, problem=problem, why=why, remedy=remedy, fixable=True)


def experimental(engine: EngineFacts) -> Finding:
    if engine.worker_runtime:
        return Finding("experimental", ok=True, note="not needed with warmboot's runtime")
    if engine.experimental:
        return Finding("experimental", ok=True)
    return Finding(
        "experimental",
        ok=False,
        problem="the engine is not in experimental mode",
        why="Docker offers checkpoints in experimental mode only",
        remedy=f'set "experimental": true in daemon.json ({FIX} does it) and restart Docker '
        "(with --restart-engine it does that, too)",
        fixable=True,
    )


def version(engine: EngineFacts) -> Finding:
    if engine.worker_runtime:  # a plain start restores, which no version is known to hinder
        return Finding("engine-version", ok=True, note="restores on 'host', 'none' and bridges")
    found = engine_obstacles(engine.version)
    if not found:
        elsewhere = network_obstacles(engine.version, OTHER_NETWORK)
        where = "on 'host' only; " if elsewhere else "on every network"
        reason = "; ".join(obstacle.reason for obstacle in elsewhere)
        return Finding("engine-version", ok=True, note=f"restores {where}{reason}")
    return Finding(
        "engine-version",
        ok=False,
        problem=found[0].reason,
        why="workers could be paused, but never resumed",
        remedy=found[0].remedy,
    )


def host_network(engine: EngineFacts) -> Finding:
    if engine.rootless:
        problem = "the engine runs without root, so its host network is not the machine's"
    elif "host" in engine.networks:
        return Finding("host-network", ok=True)
    else:
        problem = "the engine has no host network"
    return Finding(
        "host-network",
        ok=False,
        problem=problem,
        why="on other networks Docker removes the network namespace that a restore needs",
        remedy="use a Docker engine on Linux that runs as root",
    )


def disk(data_root: Path, scratch: Path | None = None) -> Finding:
    """``scratch`` is where containerd lets CRIU write first; else the usual folder."""
    needs = {data_root: MIN_FREE_BYTES, scratch or Path(tempfile.gettempdir()): MIN_SCRATCH_BYTES}
    room: dict[Path, int] = {}
    for folder in needs:
        try:
            room[folder] = shutil.disk_usage(folder).free
        except OSError as error:
            return Finding(
                "disk",
                ok=False,
                problem=f"the engine's folder {folder} is not accessible: {error.strerror}",
                why="checkpoints are read and prepared there",
                remedy="run warmboot on the engine's own machine",
            )
    lacking = [folder for folder, needed in needs.items() if room[folder] < needed]
    if not lacking:
        told = (f"{free >> 30} GiB below {folder}" for folder, free in room.items())
        return Finding("disk", ok=True, note=f"free: {', '.join(told)}")
    return Finding(
        "disk",
        ok=False,
        problem="; ".join(f"{room[one] >> 20} MiB are free below {one}" for one in lacking),
        why="a checkpoint takes up to three times the worker's memory while it is being made",
        remedy="free some space, or move Docker's data-root",
    )

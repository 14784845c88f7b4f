"""What a machine needs for workers: looked at, explained, and mended where that can be done.

    look() ─▶ findings, each with what is wrong, why it matters, what to do
    fix()  ─▶ what was changed; nothing the second time
    verification.verify() ─▶ the proof: a real container, paused and resumed

Every path is an argument, so that a test (or an engine of one's own) has its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from warmboot.engine.client import DEFAULT_SOCKET, DockerEngine
from warmboot.engine.commands import run
from warmboot.engine.criu import SEARCH_PATH, check_criu, usable_criu
from warmboot.engine.facts import EngineFacts
from warmboot.engine.install_criu import DEFAULT_PREFIX, DEFAULT_WRAPPER, Installed, install_criu
from warmboot.engine.settings_files import (
    enable_experimental,
    enable_tcp_established,
    has_tcp_established,
)
from warmboot.model.checkpoint import engine_obstacles
from warmboot.model.errors import HostError, WarmbootError

MIN_FREE_BYTES = 2 << 30
RESTART_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One prerequisite. ``problem``, ``why`` and ``remedy`` are empty when ``ok``.

    ``fixable``: ``fix`` does something about it. ``note`` says what was found when it is well.
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


@dataclass(frozen=True, slots=True)
class Preflight:
    """The machine's prerequisites. ``install`` is what puts CRIU there."""

    socket: Path = DEFAULT_SOCKET
    daemon_json: Path = Path("/etc/docker/daemon.json")
    runc_conf: Path = Path("/etc/criu/runc.conf")
    criu_prefix: Path = DEFAULT_PREFIX
    criu_wrapper: Path = DEFAULT_WRAPPER
    restart_command: Sequence[str] = ("systemctl", "restart", "docker")
    install: Callable[[Path, Path], Awaitable[Installed]] = field(default=install_criu)

    async def look(self) -> tuple[Finding, ...]:
        """All prerequisites, in the order in which to mend them. Never raises."""
        engine: EngineFacts | None = None
        unreachable = ""
        try:
            async with DockerEngine(self.socket) as client:
                engine = await client.facts()
        except WarmbootError as error:
            unreachable = f"{error.brief}: {error.details}"
        findings = [self._root(), *await self._criu(engine)]
        findings.append(self._tcp_established())
        findings.append(self._reachable(engine, unreachable))
        if engine is not None:
            findings += [_experimental(engine), _version(engine), _host_network(engine)]
            findings.append(_disk(engine.data_root))
        return tuple(findings)

    async def fix(self, *, restart_engine: bool = False) -> tuple[Change, ...]:
        """Do what can be done; the changes made, and what could not be. Twice changes nothing.

        The engine is restarted only when ``restart_engine`` and only when a change needs it.
        """
        changes: list[Change] = []
        needs_restart = False
        try:
            installed = await self.install(self.criu_prefix, self.criu_wrapper)
            if installed.changed:
                where = f"{installed.binary} (from {installed.source})"
                changes.append(Change(f"installed CRIU {installed.version} as {where}"))
        except HostError as error:
            changes.append(Change("install CRIU", ok=False, details=str(error)))
        try:
            if enable_tcp_established(self.runc_conf):
                changes.append(Change(f"added tcp-established to {self.runc_conf}"))
        except OSError as error:
            changes.append(Change(f"write {self.runc_conf}", ok=False, details=str(error)))
        try:
            backup = enable_experimental(self.daemon_json)
            if backup is not None:
                kept = "" if backup == self.daemon_json else f"; the old one is {backup}"
                changes.append(Change(f"set experimental in {self.daemon_json}{kept}"))
        except (WarmbootError, OSError) as error:
            changes.append(Change(f"change {self.daemon_json}", ok=False, details=str(error)))
        else:
            needs_restart = not await self._is_experimental()
        if needs_restart and restart_engine:
            changes.append(await self._restart())
        return tuple(changes)

    async def _is_experimental(self) -> bool:
        try:
            async with DockerEngine(self.socket) as client:
                return (await client.facts()).experimental
        except WarmbootError:
            return False

    async def _restart(self) -> Change:
        command = " ".join(self.restart_command)
        try:
            outcome = await run(self.restart_command, timeout_s=RESTART_TIMEOUT_S)
        except HostError as error:
            return Change(f"restart the engine ({command})", ok=False, details=str(error))
        if not outcome.ok:
            return Change(
                f"restart the engine ({command})", ok=False, details=outcome.output.strip()
            )
        return Change(f"restarted the engine ({command})")

    def _root(self) -> Finding:
        if os.geteuid() == 0:
            return Finding("root", ok=True)
        return Finding(
            "root",
            ok=False,
            problem="warmboot does not run as root",
            why="checkpoints lie in Docker's own folders, and a restored process's memory is read "
            "to prove that it survived",
            remedy="start warmboot as root",
        )

    async def _criu(self, engine: EngineFacts | None) -> tuple[Finding, ...]:
        try:
            binary, lacking = await usable_criu(f"{self.criu_wrapper.parent}:{SEARCH_PATH}")
            if lacking or binary is None:
                return (
                    Finding(
                        "criu",
                        ok=False,
                        problem="; ".join(obstacle.reason for obstacle in lacking),
                        why="CRIU is what writes a process's memory down and brings it back",
                        remedy="; ".join(obstacle.remedy for obstacle in lacking),
                        fixable=True,
                    ),
                )
            report = await check_criu(binary, engine.cgroup_version if engine else "2")
        except HostError as error:
            return (
                Finding(
                    "criu",
                    ok=False,
                    problem=str(error),
                    why="CRIU is what writes a process's memory down and brings it back",
                    remedy="`warmboot doctor --fix` installs one that works",
                    fixable=True,
                ),
            )
        version = Finding("criu", ok=True, note=f"{report.version} at {binary}")
        if not report.looks_good:
            problem = f"`criu check` complains: {report.output.splitlines()[-1:]}"
            why = "the kernel lacks something without which nothing can be restored"
        elif report.missing:
            problem = f"this kernel or CRIU lacks {', '.join(report.missing)}"
            why = "; ".join(report.missing.values())
        else:
            return version, Finding("criu-check", ok=True, note="looks good, all needed features")
        remedy = "use a kernel with CONFIG_CHECKPOINT_RESTORE and its socket diagnosis modules"
        return version, Finding("criu-check", ok=False, problem=problem, why=why, remedy=remedy)

    def _tcp_established(self) -> Finding:
        if has_tcp_established(self.runc_conf):
            return Finding("tcp-established", ok=True, note=str(self.runc_conf))
        return Finding(
            "tcp-established",
            ok=False,
            problem=f"{self.runc_conf} does not have tcp-established",
            why="a worker that holds a TCP connection, as every one to the manager does, could not "
            "be paused",
            remedy=f"add a line tcp-established to {self.runc_conf}",
            fixable=True,
        )

    def _reachable(self, engine: EngineFacts | None, problem: str) -> Finding:
        if engine is not None:
            return Finding("engine", ok=True, note=f"Docker {engine.version} at {self.socket}")
        return Finding(
            "engine",
            ok=False,
            problem=f"{self.socket}: {problem}",
            why="workers are containers of this engine",
            remedy="install Docker (`apt-get install docker.io`) or start it, or name another "
            "socket",
        )


def _experimental(engine: EngineFacts) -> Finding:
    if engine.experimental:
        return Finding("experimental", ok=True)
    return Finding(
        "experimental",
        ok=False,
        problem="the engine is not in experimental mode",
        why="Docker offers checkpoints in experimental mode only",
        remedy='set "experimental": true in daemon.json and restart Docker',
        fixable=True,
    )


def _version(engine: EngineFacts) -> Finding:
    found = engine_obstacles(engine.version)
    if not found:
        return Finding("engine-version", ok=True, note=f"{engine.version} restores on 'host'")
    return Finding(
        "engine-version",
        ok=False,
        problem=found[0].reason,
        why="workers would pause and never resume",
        remedy=found[0].remedy,
    )


def _host_network(engine: EngineFacts) -> Finding:
    if "host" in engine.networks:
        return Finding("host-network", ok=True)
    return Finding(
        "host-network",
        ok=False,
        problem="the engine has no host network",
        why="on other networks Docker removes the network namespace that a restore needs",
        remedy="use a Docker engine on Linux that runs as root",
    )


def _disk(data_root: Path) -> Finding:
    try:
        free = shutil.disk_usage(data_root).free
    except OSError as error:
        return Finding(
            "disk",
            ok=False,
            problem=f"the engine's folder {data_root} cannot be seen from here: {error.strerror}",
            why="checkpoints are read and prepared in it",
            remedy="run warmboot on the engine's own machine",
        )
    if free >= MIN_FREE_BYTES:
        return Finding("disk", ok=True, note=f"{free >> 30} GiB free below {data_root}")
    return Finding(
        "disk",
        ok=False,
        problem=f"{free >> 20} MiB are free below {data_root}",
        why="a checkpoint takes up to three times the worker's memory while it is being made",
        remedy="make room, or move Docker's data-root",
    )

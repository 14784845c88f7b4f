"""Checks what a machine needs for workers, explains what is missing, and repairs what it can.

    check() ─▶ findings, each with what is wrong, why it matters, what to do
    fix()   ─▶ what was changed; nothing the second time
    verification.verify() ─▶ the proof: a real container, paused and resumed

Every path is an argument, so that a test has its own; ``of_engine`` asks the engine itself.
daemon.json is left alone when the engine is in experimental mode already: it may have that from its
command line, and dockerd does not start when the same stands in both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from warmboot.criu.binary import SEARCH_PATH, check_criu, find_criu, usable_criu
from warmboot.criu.containerd import scratch_folders
from warmboot.criu.setup import findings
from warmboot.criu.setup.findings import Change, Finding
from warmboot.criu.setup.install import DEFAULT_PREFIX, DEFAULT_WRAPPER, Installed, install_criu
from warmboot.criu.setup.install_runtime import DEFAULT_RUNTIME
from warmboot.criu.setup.remove_runtime import remove_runtime
from warmboot.criu.setup.runtime_setup import check_runtime, fix_runtime
from warmboot.criu.setup.settings_files import enable_experimental, enable_tcp_established
from warmboot.docker.engine import DEFAULT_SOCKET, DockerEngine
from warmboot.docker.facts import EngineFacts
from warmboot.docker.peer import engine_process
from warmboot.model.errors import HostError, NotSupported, WarmbootError
from warmboot.system.programs import run_program

DAEMON_JSON = Path("/etc/docker/daemon.json")
RESTART_TIMEOUT_S = 180.0
READY_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.2
_SYSTEMD = Path("/run/systemd/system")


def _own_socket() -> Path:
    """Where the machine's own engine listens."""
    return DEFAULT_SOCKET.resolve()


def _restart_command() -> tuple[str, ...]:
    """How the machine's own engine is restarted."""
    if _SYSTEMD.exists():
        return ("systemctl", "restart", "docker")
    return ("service", "docker", "restart")


@dataclass(frozen=True, slots=True)
class Preflight:
    """The machine's prerequisites. ``install`` is what puts CRIU there.

    ``engine_path`` is where the engine looks for programs; empty when that is not known.
    Without a ``restart_command`` the engine is not restarted: somebody else has started it.
    ``runtime`` is where the runtime of workers is; without one they use the engine's checkpoints.
    """

    socket: Path = DEFAULT_SOCKET
    engine_path: str = ""
    daemon_json: Path = DAEMON_JSON
    runc_conf: Path = Path("/etc/criu/runc.conf")
    criu_prefix: Path = DEFAULT_PREFIX
    criu_wrapper: Path = DEFAULT_WRAPPER
    runtime: Path | None = DEFAULT_RUNTIME
    restart_command: Sequence[str] = field(default_factory=_restart_command)
    ready_timeout_s: float = READY_TIMEOUT_S
    install: Callable[[Path, Path], Awaitable[Installed]] = field(default=install_criu)

    @classmethod
    async def of_engine(cls, socket: Path, criu_wrapper: Path = DEFAULT_WRAPPER) -> Self:
        """The preflight for the engine at ``socket``, with the files that the engine says
        it reads.
        """
        process = await asyncio.to_thread(engine_process, socket)
        config = process.config if process is not None else None
        return cls(
            socket=socket,
            engine_path=process.path if process is not None else "",
            daemon_json=config or DAEMON_JSON,
            criu_wrapper=criu_wrapper,
            restart_command=_restart_command() if socket.resolve() == _own_socket() else (),
        )

    async def check(self) -> tuple[Finding, ...]:
        """All prerequisites, in the order in which to mend them. Never raises."""
        engine: EngineFacts | None = None
        unreachable = ""
        try:
            async with DockerEngine(self.socket) as client:
                engine = await client.facts()
        except WarmbootError as error:
            unreachable = f"{error.brief}: {error.details}"
        found = [findings.root(), findings.other_users(), *await self._criu(engine)]
        found.append(findings.tcp_established(self.runc_conf))
        found.append(findings.reachable(engine, self.socket, unreachable))
        if engine is not None:
            if self.runtime is not None:
                found.append(await check_runtime(engine, self.socket, self.runtime))
            found += [findings.experimental(engine), findings.version(engine)]
            found += [
                findings.host_network(engine),
                findings.live_restore(engine),
                findings.disk(engine.data_root, self._scratch()),
            ]
        return tuple(found)

    def _scratch(self) -> Path | None:
        return next(iter(scratch_folders(self.socket)), None)

    async def fix(self, *, restart_engine: bool = False) -> tuple[Change, ...]:
        """Do what can be done; the changes made, and what could not be. Twice changes nothing.

        The engine is restarted only when ``restart_engine`` and only when a change needs it.
        """
        changes: list[Change] = []
        try:
            installed = await self.install(self.criu_prefix, self.criu_wrapper)
            if installed.changed:
                where = f"{installed.binary} (from {installed.source}){_aside(installed)}"
                changes.append(Change(f"installed CRIU {installed.version} as {where}"))
        except (HostError, NotSupported) as error:
            changes.append(Change("install CRIU", ok=False, details=str(error)))
        try:
            backup = enable_tcp_established(self.runc_conf)
            if backup is not None:
                kept = _kept(self.runc_conf, backup)
                changes.append(Change(f"added tcp-established to {self.runc_conf}{kept}"))
        except OSError as error:
            changes.append(Change(f"write {self.runc_conf}", ok=False, details=str(error)))
        if self.runtime is not None:
            changes += await fix_runtime(self.socket, self.daemon_json, self.runtime)
        if not await self._can_checkpoint():
            changes += await self._make_experimental(restart_engine)
        return tuple(changes)

    async def remove_runtime(self) -> tuple[Change, ...]:
        """Remove the runtime of workers. ``InUse`` while the engine has a container on it."""
        program = self.runtime or DEFAULT_RUNTIME
        return tuple(await remove_runtime(self.socket, self.daemon_json, program))

    async def _make_experimental(self, restart_engine: bool) -> list[Change]:
        try:
            backup = enable_experimental(self.daemon_json)
        except (WarmbootError, OSError) as error:
            return [Change(f"change {self.daemon_json}", ok=False, details=str(error))]
        changes: list[Change] = []
        if backup is not None:
            kept = _kept(self.daemon_json, backup)
            changes.append(Change(f"set experimental in {self.daemon_json}{kept}"))
        if restart_engine:
            changes.append(await self._restart())
        return changes

    async def _can_checkpoint(self) -> bool:
        """With the runtime of workers, or in experimental mode."""
        try:
            async with DockerEngine(self.socket) as client:
                return findings.experimental(await client.facts()).ok
        except WarmbootError:
            return False

    async def _restart(self) -> Change:
        command = " ".join(self.restart_command)
        if not command:
            return Change(
                "restart the engine",
                ok=False,
                details=f"{self.socket} is not this machine's own engine: restart it as you "
                "started it",
            )
        try:
            await run_program(*self.restart_command, timeout_s=RESTART_TIMEOUT_S)
        except (HostError, NotSupported) as error:
            return Change(f"restart the engine ({command})", ok=False, details=str(error))
        if not await self._answers():
            return Change(
                f"restart the engine ({command})",
                ok=False,
                details=f"it is not there in experimental mode {self.ready_timeout_s:.0f} s later: "
                "see its log",
            )
        return Change(f"restarted the engine ({command})")

    async def _answers(self) -> bool:
        """Whether the engine is back in time; the command may return before it is."""
        try:
            async with asyncio.timeout(self.ready_timeout_s):
                while not await self._can_checkpoint():  # noqa: ASYNC110 (nothing tells it)
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            return False
        return True

    async def _criu(self, engine: EngineFacts | None) -> tuple[Finding, ...]:
        ours = f"{self.criu_wrapper.parent}:{SEARCH_PATH}"
        try:
            binary, lacking = await usable_criu(self.engine_path or ours)
            if binary is None and find_criu(ours):
                return (findings.criu_not_found(self.engine_path, self.criu_wrapper),)
            if lacking or binary is None:
                reasons, remedies = zip(*((one.reason, one.remedy) for one in lacking), strict=True)
                return (findings.no_criu("; ".join(reasons), "; ".join(remedies)),)
            report = await check_criu(binary, engine.cgroup_version if engine else "2")
        except HostError as error:
            return (findings.no_criu(str(error), f"{findings.FIX} installs one that works"),)
        version = Finding("criu", ok=True, note=f"{report.version} at {binary}")
        if not report.looks_good:
            problem = f"`criu check` complains: {(report.output.splitlines() or ['?'])[-1]}"
            why = "the kernel lacks something without which nothing can be restored"
        elif report.missing:
            problem = f"this kernel or CRIU lacks {', '.join(report.missing)}"
            why = "; ".join(report.missing.values())
        else:
            return version, Finding("criu-check", ok=True, note="looks good, all needed features")
        remedy = "use a kernel with CONFIG_CHECKPOINT_RESTORE and its socket diagnosis modules"
        return version, Finding("criu-check", ok=False, problem=problem, why=why, remedy=remedy)


def _kept(path: Path, backup: Path) -> str:
    return "" if backup == path else f"; the old one is {backup}"


def _aside(installed: Installed) -> str:
    return f"; what stood there is {installed.aside}" if installed.aside else ""

"""Has the runtime of workers installed and registered with an engine, which goes on meanwhile.

    program ─▶ daemon.json, merged ─▶ SIGHUP ─▶ the engine lists it

dockerd does not start when its command line and daemon.json both name runtimes, so its command
line is looked at first; then nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from warmboot.criu.setup import findings
from warmboot.criu.setup.findings import Change, Finding
from warmboot.criu.setup.install_runtime import install_runtime, runs
from warmboot.criu.setup.settings_files import register_runtime
from warmboot.docker.engine import DEFAULT_SOCKET, DockerEngine
from warmboot.docker.facts import EngineFacts
from warmboot.docker.peer import EngineProcess, engine_process, process_of
from warmboot.model.errors import WarmbootError
from warmboot.model.worker import RUNTIME

PID_FILE = Path("/var/run/docker.pid")
RELOAD_TIMEOUT_S = 30.0
LOOK_EVERY_S = 0.1


async def check_runtime(engine: EngineFacts, socket: Path, program: Path) -> Finding:
    registered = engine.runtimes.get(RUNTIME, "")
    current = bool(registered) and not engine.rootless and await runs(Path(registered))
    process = await asyncio.to_thread(process_at, socket)
    adds = process is not None and process.adds_runtimes
    return findings.runtime(engine, current, adds, program)


async def fix_runtime(socket: Path, daemon_json: Path, program: Path) -> list[Change]:
    """What was changed, and what could not be; nothing when the engine has it, or does not answer.

    Running containers go on: the engine reads its settings again, and is not restarted.
    """
    try:
        async with DockerEngine(socket) as client:
            engine = await client.facts()
    except WarmbootError:
        return []
    finding = await check_runtime(engine, socket, program)
    if finding.ok or not finding.fixable:
        return []
    registered = Path(engine.runtimes.get(RUNTIME) or program)
    try:
        changed = await install_runtime(registered)
    except (WarmbootError, OSError) as error:
        return [Change(f"install {registered}", ok=False, details=str(error))]
    changes = [Change(f"installed the runtime of workers, {registered}")] if changed else []
    if RUNTIME not in engine.runtimes:
        changes += await _register(socket, daemon_json, registered)
    return changes


async def _register(socket: Path, daemon_json: Path, program: Path) -> list[Change]:
    process = await asyncio.to_thread(process_at, socket)
    if process is None:
        details = f"it cannot be seen which dockerd listens at {socket}"
        return [Change(f"change {daemon_json}", ok=False, details=details)]
    try:
        backup = register_runtime(daemon_json, RUNTIME, program)
    except (WarmbootError, OSError) as error:
        return [Change(f"change {daemon_json}", ok=False, details=str(error))]
    kept = "" if backup in (None, daemon_json) else f"; the old one is {backup}"
    changes = [] if backup is None else [Change(f"added the runtime to {daemon_json}{kept}")]
    await asyncio.to_thread(reload, process.pid)
    if not await engine_lists(socket, wanted=True):
        details = "it does not list the runtime: see its log, and restart it"
        return [*changes, Change("reload the engine", ok=False, details=details)]
    return [*changes, Change("reloaded the engine")]


async def engine_lists(socket: Path, *, wanted: bool) -> bool:
    """Whether the engine lists the runtime, or does not, in time; it does not tell when."""
    with contextlib.suppress(TimeoutError, WarmbootError):
        async with asyncio.timeout(RELOAD_TIMEOUT_S), DockerEngine(socket) as client:
            while (RUNTIME in (await client.facts()).runtimes) is not wanted:  # noqa: ASYNC110 (see above)
                await asyncio.sleep(LOOK_EVERY_S)
            return True
    return False


def process_at(socket: Path) -> EngineProcess | None:
    """The dockerd behind a socket; systemd may listen for the machine's own."""
    found = engine_process(socket)
    if found is None and socket.resolve() == DEFAULT_SOCKET.resolve():
        with contextlib.suppress(OSError, ValueError):
            return process_of(int(PID_FILE.read_text()))
    return found


def reload(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        held = os.pidfd_open(pid)
        try:
            if process_of(pid) is not None:
                signal.pidfd_send_signal(held, signal.SIGHUP)
        finally:
            os.close(held)

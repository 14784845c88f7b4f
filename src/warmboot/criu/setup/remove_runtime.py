"""Removes the runtime of workers: from daemon.json, from the engine that is running, from the disk.

A container whose runtime is gone can be neither started nor resumed, so it is refused as long as
there is one. Whoever creates one just before the engine has read its settings is seen as well: the
runtime is registered again then.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from warmboot.criu.runtime.orders import ROOT
from warmboot.criu.setup.findings import Change
from warmboot.criu.setup.runtime_setup import engine_lists, process_at, reload
from warmboot.criu.setup.settings_files import (
    daemon_settings,
    register_runtime,
    unregister_runtime,
)
from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import EngineFacts
from warmboot.model.errors import HostError, InUse, NotSupported, WarmbootError
from warmboot.model.worker import RUNTIME

SHOWN = 10
DEFAULT = "default-runtime"


async def remove_runtime(
    socket: Path, daemon_json: Path, program: Path, state: Path = ROOT
) -> list[Change]:
    """What was removed; nothing the second time.

    ``InUse`` while the engine has a container on it, or runs all on it that name no runtime,
    ``EngineUnavailable`` as that cannot be told. After an error it is registered as before.
    """
    async with DockerEngine(socket) as engine:
        facts = await engine.facts()
        await _refuse_used(engine)
        await asyncio.to_thread(_refuse_noted, state)
        registered = facts.runtimes.get(RUNTIME)
        changes: list[Change] = []
        if registered is not None:
            _refuse_default(facts, daemon_json)
            changes += await _unregister(engine, socket, daemon_json, Path(registered))
    for path in dict.fromkeys((Path(registered or program), program)):
        if await asyncio.to_thread(_remove, path):
            changes.append(Change(f"removed {path}"))
    return changes


async def _unregister(
    engine: DockerEngine, socket: Path, daemon_json: Path, program: Path
) -> list[Change]:
    process = await asyncio.to_thread(process_at, socket)
    if process is None or process.adds_runtimes:
        raise NotSupported(
            "the engine cannot be told to forget the runtime of workers",
            details="its command line names runtimes (--add-runtime)"
            if process is not None
            else f"it cannot be seen which dockerd listens at {socket}",
            resolution=f"take {RUNTIME} out of its settings by hand and restart it, then try again",
        )
    backup = unregister_runtime(daemon_json, RUNTIME)
    await asyncio.to_thread(reload, process.pid)
    if not await engine_lists(socket, wanted=False):
        register_runtime(daemon_json, RUNTIME, program)  # it may not start with what it refuses
        raise HostError(
            "the engine still lists the runtime of workers",
            details=f"it was told to read {daemon_json} again, which is as before now",
            resolution="its log says what it does not take: correct that, then try again",
        )
    try:
        await _refuse_used(engine)
    except WarmbootError:
        register_runtime(daemon_json, RUNTIME, program)
        await asyncio.to_thread(reload, process.pid)
        await engine_lists(socket, wanted=True)
        raise
    kept = f"; the old one is {backup}" if backup is not None else ""
    return [Change(f"removed the runtime from {daemon_json}{kept}"), Change("reloaded the engine")]


async def _refuse_used(engine: DockerEngine) -> None:
    names = await engine.on_runtime(RUNTIME)
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise InUse(
            "the runtime of workers is in use, so it is not removed",
            details=f"containers that could not be started without it: "
            f"{', '.join(sorted(names)[:SHOWN])}{more}",
            resolution="remove them first (`warmboot worker rm NAME`; one that is no worker: "
            "`docker rm NAME`), then try again",
        )


def _refuse_default(facts: EngineFacts, daemon_json: Path) -> None:
    """dockerd does not start if it does not have the runtime that it is to use by default."""
    said = daemon_settings(daemon_json).get(DEFAULT)
    if RUNTIME not in (facts.default_runtime, said):
        return
    where = f"{DEFAULT} in {daemon_json}" if said == RUNTIME else f"--{DEFAULT} of dockerd"
    raise InUse(
        "the runtime of workers is the engine's default, so it is not removed",
        details=f"that is said by {where}, and dockerd does not start without its default runtime",
        resolution="take that out, restart the engine, then try again",
    )


def _refuse_noted(state: Path) -> None:
    """Another engine may use the same program: the runtime notes each container that it runs."""
    with contextlib.suppress(FileNotFoundError):
        if noted := sorted(state.iterdir()):
            raise InUse(
                "the runtime of workers is in use by another engine, so it is not removed",
                details=f"containers that run or are paused: "
                f"{', '.join(path.name for path in noted[:SHOWN])}",
                resolution=f"remove them there first; if no engine has them, remove {noted[0]} "
                "and the like, then try again",
            )


def _remove(path: Path) -> bool:
    """Whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    with contextlib.suppress(OSError):  # others keep something there
        path.parent.rmdir()
    return True

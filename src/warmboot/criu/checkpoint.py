"""Dumps a container into a checkpoint; afterwards it is either in the checkpoint or still running.

    refuse what cannot be restored ─▶ dump ─▶ read what was dumped ─▶ wait until it has stopped
                                       │              │
                                       ▼              ▼
                       CRIU's lines, still running?   half-made: delete it

If the engine goes away in between, the call raises ``EngineUnavailable``; ``recover`` then says,
once the engine is back, which of the two it was and removes a checkpoint that is only half there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from warmboot.criu.containerd import SALT_FILE
from warmboot.criu.images import DumpFacts, read_dump, unreadable
from warmboot.criu.in_progress import NO_TIMEOUT, Limits, Work, answered, unless_it_hangs
from warmboot.criu.log import CriuLog, holding_log
from warmboot.criu.lost_exit import STOP_TIMEOUT_S, inspect_when_stopped
from warmboot.criu.refusals import dump_failure
from warmboot.criu.room import check_engine_room
from warmboot.criu.runtime import dump as by_runc
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.resume import give_order
from warmboot.criu.runtime.sums import advice
from warmboot.criu.runtime_work import end_in, ends_within, thaw
from warmboot.criu.unpausable import refuse_processes
from warmboot.docker.content_store import until_forgotten
from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import ContainerFacts, EngineFacts
from warmboot.model.checkpoint import (
    Versions,
    check_checkpoint_name,
    obstacles,
    runtime_obstacles,
)
from warmboot.model.errors import (
    CheckpointError,
    Conflict,
    DiskFull,
    EngineUnavailable,
    NameTaken,
    NotFound,
    NotSupported,
    WarmbootError,
)
from warmboot.model.worker import HOST_NETWORK, RUNTIME
from warmboot.system.concurrency import finish as finish_work

OUR_FILES = frozenset({SALT_FILE})
"""Files in a checkpoint's folder that are not the dump's."""

GONE_WITHIN_S = 1.0
TOO_LATE = "the worker could not be paused in time; it keeps running"


@dataclass(frozen=True, slots=True)
class Dumped:
    """A checkpoint that is there. ``duration_s`` is that of the engine's call."""

    container_id: str
    name: str
    folder: Path
    size_bytes: int
    duration_s: float
    processes: int
    tcp_connections: int
    image_digest: str
    versions: Versions
    left_running: bool


@dataclass(frozen=True, slots=True)
class Recovered:
    """What an interrupted dump or restore has left. ``checkpoint``: it is there and whole."""

    running: bool
    exit_code: int
    checkpoint: bool


def refuse_obstacles(engine: EngineFacts, container: ContainerFacts) -> None:
    """``NotSupported`` when this container could not be restored by this engine."""
    tty, auto_remove = container.tty, container.auto_remove
    if container.runtime == RUNTIME:
        found = runtime_obstacles(container.network, auto_remove=auto_remove)
    elif not engine.experimental:
        raise NotSupported(
            "the Docker engine is not in experimental mode, so it cannot make checkpoints",
            resolution='put {"experimental": true} into daemon.json and restart Docker '
            "(`warmboot doctor --fix --restart-engine`)",
        )
    else:
        found = obstacles(engine.version, container.network, tty=tty, auto_remove=auto_remove)
    if found:
        raise NotSupported(
            f"{container.name} could not be resumed after a pause",
            details="; ".join(obstacle.reason for obstacle in found),
            resolution="; ".join(obstacle.remedy for obstacle in found),
        )


async def look_before(engine: DockerEngine, container: str, limits: Limits) -> ContainerFacts:
    """The container as it is before a dump. ``NotFound``, ``EngineUnavailable``."""
    async with limits.within(TOO_LATE):
        return await answered(engine.inspect(container), limits.hangs_after_s)


async def checkpoint(
    engine: DockerEngine,
    container: str | ContainerFacts,
    name: str,
    *,
    into: Path | None = None,
    search_path: str = "",
    leave_running: bool = False,
    until_stopped: bool = True,
    limits: Limits = NO_TIMEOUT,
) -> Dumped:
    """Dump ``container`` into a checkpoint ``name``, and stop it unless ``leave_running``.

    ``container`` may be what ``look_before`` has just found.

    ``into`` is the folder of one that is not the engine's: made by runc, with the CRIU on
    ``search_path``; the container's next start is then a restore from it. Its processes are gone
    when this returns; with ``until_stopped`` the engine has noticed, too. A dump of which nothing
    moves, or that takes longer than the ``limits`` allow, is ended, and the container runs on.

    Errors: ``Conflict`` (it does not run, or has a process that cannot be dumped), ``NameTaken``,
    ``NotSupported``, ``DiskFull``, ``CheckpointError`` with CRIU's own lines (it runs on),
    ``EngineUnavailable``.
    """
    check_checkpoint_name(name)
    async with limits.within(TOO_LATE):
        facts = await answered(engine.remembered_facts(), limits.hangs_after_s)
    if isinstance(container, ContainerFacts):
        found = container
    else:
        found = await look_before(engine, container, limits)
    if not found.running:
        raise Conflict(
            f"{found.name} is not running",
            details=f"its container is {found.status}",
            resolution="only a running worker can be paused",
        )
    refuse_obstacles(facts, found)
    folder = into or facts.checkpoint_folder(found.id, name)
    if folder.exists():
        raise NameTaken(
            f"{found.name} already has a checkpoint {name}",
            resolution="choose another name, or delete that one",
        )
    await asyncio.to_thread(refuse_processes, facts, found)
    started = time.monotonic()
    if into is None:
        await asyncio.to_thread(check_engine_room, facts, found, engine.socket)
        async with limits.within(TOO_LATE):
            await until_forgotten(found.id, found.pid, facts.content_stores())
        started = time.monotonic()
        criu = await _dump_by_engine(engine, facts, found, name, leave_running, limits)
    else:
        criu = await _dump_by_runc(
            engine, facts, found, CheckpointFolder(into), search_path, leave_running, limits
        )
    duration_s = time.monotonic() - started
    dump = await _read_or_delete(engine, found, name, into)
    gone = not leave_running and await asyncio.to_thread(ends_within, found.pid, GONE_WITHIN_S)
    if not leave_running and (until_stopped or not gone):
        await engine.wait_stopped(found.id, STOP_TIMEOUT_S)
    return Dumped(
        container_id=found.id,
        name=name,
        folder=folder,
        size_bytes=dump.size_bytes,
        duration_s=duration_s,
        processes=len(dump.processes),
        tcp_connections=dump.tcp_connections,
        image_digest=found.image_digest,
        versions=facts.versions(criu),
        left_running=leave_running,
    )


async def _dump_by_engine(
    engine: DockerEngine,
    facts: EngineFacts,
    found: ContainerFacts,
    name: str,
    leave_running: bool,
    limits: Limits,
) -> str:
    """The version of the CRIU that did it."""
    logs = [work / "criu-work" / "dump.log" for work in facts.work_folders(found.id)]
    work = Work(facts, engine.socket, found.id, (name,), found.pid)
    async with holding_log(logs) as log:
        try:
            call = engine.dump(found.id, name, leave_running=leave_running)
            await unless_it_hangs(work, call, limits)
        except (CheckpointError, Conflict, DiskFull) as error:
            failure = await _failed(engine, found, error, log)
            with contextlib.suppress(CheckpointError, Conflict):
                await engine.delete_checkpoint(found.id, name)  # nothing is left of it
            raise failure from error
        return log.version()


async def _dump_by_runc(
    engine: DockerEngine,
    facts: EngineFacts,
    found: ContainerFacts,
    into: CheckpointFolder,
    search_path: str,
    leave_running: bool,
    limits: Limits,
) -> str:
    """The version of the CRIU that did it."""
    making = await by_runc.begin(found, into, own_network=found.network != HOST_NETWORK)
    work = Work(facts, engine.socket, found.id, (), found.pid, (making.path,))
    log = CriuLog()
    try:
        await by_runc.dump(
            work,
            making,
            log,
            search_path=search_path,
            layer=found.upper_folder,
            mounts=found.mounted,
            leave_running=leave_running,
            limits=limits,
        )
    except (CheckpointError, Conflict, DiskFull) as error:
        await asyncio.to_thread(end_in, making.path)  # CRIU, if its runc was killed
        await _run_on(found)
        if leave_running or not await by_runc.is_done(making, found.pid):
            failure = await _failed(engine, found, error, log)
            await asyncio.to_thread(into.remove)
            raise failure from error
    finally:
        criu = log.version()
        log.close()
    if leave_running:
        await by_runc.publish(into)
        return criu
    order = asyncio.ensure_future(give_order(found.id, into, search_path))
    try:
        await by_runc.publish(into, found.started_at)  # a failure leaves it: the worker is gone
    finally:
        await finish_work(order)
    return criu


async def recover(
    engine: DockerEngine, container: str, name: str, into: Path | None = None
) -> Recovered:
    """What is true of a container after an interruption. A checkpoint that is only half there is
    removed.

    What a dump that was killed has left frozen is thawed. ``into`` is the folder of one that is not
    the engine's: what was dumped but not yet put into its place is put there now.
    """
    facts, found = await asyncio.gather(engine.facts(), inspect_when_stopped(engine, container))
    if into is not None:
        await asyncio.to_thread(end_in, CheckpointFolder(into).making.path)
    await _run_on(found)
    whole = True
    try:
        if into is None:
            await asyncio.to_thread(read_dump, facts.checkpoint_folder(found.id, name), OUR_FILES)
        else:
            await finish(CheckpointFolder(into))
    except CheckpointError:
        whole = False
        await delete_checkpoint(engine, found.id, name, into)
    return Recovered(running=found.running, exit_code=found.exit_code, checkpoint=whole)


async def finish(folder: CheckpointFolder) -> DumpFacts:
    """Have it in its place if it is whole; else ``CheckpointError``."""
    if await asyncio.to_thread(folder.path.is_dir):
        return await asyncio.to_thread(read_dump, folder.memory)
    making = folder.making
    found = await asyncio.to_thread(read_dump, making.memory)
    if not await asyncio.to_thread(making.is_of_this_boot):
        raise CheckpointError(
            "it was not yet on the disk when the machine went down", details=str(making.path)
        )
    if await asyncio.to_thread(making.lacks_files.exists):
        raise CheckpointError("its files are not whole", details=str(making.files))
    await by_runc.publish(folder)
    return found


async def dump_facts(
    engine: DockerEngine, container_id: str, name: str, into: Path | None = None
) -> DumpFacts:
    """Read a checkpoint that should be there. ``NotFound``, ``CheckpointError`` (damaged)."""
    check_checkpoint_name(name)
    if into is None:
        folder = (await engine.remembered_facts()).checkpoint_folder(container_id, name)
    else:
        folder = CheckpointFolder(into).memory
    try:
        there = folder.is_dir()
    except PermissionError as error:
        raise unreadable(error) from error
    if not there:
        raise NotFound(
            f"there is no checkpoint {name}",
            details=f"{folder} is not there",
            resolution="list the checkpoints and choose one of them"
            if into is None
            else advice(into),
        )
    return await asyncio.to_thread(read_dump, folder, OUR_FILES)


async def delete_checkpoint(
    engine: DockerEngine, container_id: str, name: str, into: Path | None
) -> None:
    """Remove a checkpoint, the engine's or the one in ``into``, whole or half-made. Idempotent."""
    if into is None:
        await engine.delete_checkpoint(container_id, name)
    else:
        await asyncio.to_thread(CheckpointFolder(into).remove)


async def _read_or_delete(
    engine: DockerEngine, container: ContainerFacts, name: str, into: Path | None
) -> DumpFacts:
    try:
        return await dump_facts(engine, container.id, name, into)
    except (CheckpointError, NotFound):
        await delete_checkpoint(engine, container.id, name, into)
        raise


async def _failed(
    engine: DockerEngine,
    container: ContainerFacts,
    error: WarmbootError,
    log: CriuLog,
) -> WarmbootError:
    """What to raise after a dump that failed: CRIU's reason, and whether the worker runs on."""
    lines = log.errors() or _kept_log(error.details)
    await _run_on(container)
    try:
        now = await engine.inspect(container.id)
    except NotFound:
        fate = "its container is gone"
    except EngineUnavailable:
        fate = "the engine went away, so it is not known whether it keeps running"
    else:
        fate = (
            "it keeps running" if now.running else f"it has stopped with exit code {now.exit_code}"
        )
    return dump_failure(container.name, fate, lines, error)


async def _run_on(container: ContainerFacts) -> None:
    """Let what a dump has left frozen go on, unless its owner had frozen it (`docker pause`)."""
    if container.pid and container.status != "paused":
        await asyncio.to_thread(thaw, container.id, container.pid)


def _kept_log(message: str) -> tuple[str, ...]:
    """The log that containerd copies beside the container and names in its answer, if it does."""
    path = Path(message.partition("path= ")[2].partition(": ")[0].strip())
    log = CriuLog()
    try:
        return log.errors() if path.is_absolute() and log.hold(path) else ()
    finally:
        log.close()

"""Restores a container from its checkpoint, and verifies that its memory was restored.

    stopped ──salt──▶ start from it ──▶ compare memory ──▶ running, proven
                │          │                  │
                │          │ content exists   └─ started afresh: kill it
                └──────────┘                  (the checkpoint stays in every case)

Before a start dockerd packs the checkpoint's folder into containerd's content store, where the same
bytes may still lie from the dump: "content sha256:… already exists" (moby 42900). A small file with
random content in the folder gives every start bytes of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from warmboot.criu.checkpoint import dump_facts, refuse_obstacles
from warmboot.criu.containerd import SALT_FILE, forget_restored, scratch_folders
from warmboot.criu.continuity import Continuity, compare
from warmboot.criu.images import DumpFacts
from warmboot.criu.in_progress import NO_TIMEOUT, Limits, Work, answered, unless_it_hangs
from warmboot.criu.log import holding_log
from warmboot.criu.lost_exit import inspect_when_stopped
from warmboot.criu.refusals import restore_failure
from warmboot.criu.runtime.files import differs, put_back
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.held_files import changed_since
from warmboot.criu.runtime.process import first_process
from warmboot.criu.runtime.resume import resume
from warmboot.criu.runtime.sums import check_unless_it_hangs
from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import ContainerFacts
from warmboot.model.checkpoint import AS_IT_WAS, ChangedFile, ResumeOptions
from warmboot.model.errors import CheckpointError, Conflict, DiskFull, WarmbootError
from warmboot.system.concurrency import end

MAX_ATTEMPTS = 3
LITTLE_BYTES = 8 << 20
"""So much is checked before an engine has come to call the runtime."""

T = TypeVar("T")
CONTENT_EXISTS = "already exists"
TOO_LATE = "the worker could not be resumed in time; its checkpoint is kept"


@dataclass(frozen=True, slots=True)
class Restored:
    """``pid`` is the first process's on the host. ``duration_s`` until it was proven to run.

    ``continuity`` is ``same``, or ``ended`` when the restored process was already over: then
    ``exit_code`` is its own, or 255 where the engine has missed its end, and nothing more can be
    proven. ``changed_files`` are those in mounts
    that it had open, and that are not as they were.
    """

    container_id: str
    name: str
    pid: int
    duration_s: float
    attempts: int
    continuity: Continuity
    exit_code: int | None = None
    changed_files: Sequence[ChangedFile] = ()


async def restore(
    engine: DockerEngine,
    container: str,
    name: str,
    *,
    into: Path | None = None,
    search_path: str = "",
    options: ResumeOptions = AS_IT_WAS,
    limits: Limits = NO_TIMEOUT,
) -> Restored:
    """Start ``container`` from its checkpoint ``name``; ``into`` is its folder if not the engine's.

    The engine's own restores know no ``options``: its checkpoints have no files, and what becomes
    of connections is said in /etc/criu/runc.conf.

    A restore of which nothing moves, or that takes longer than the ``limits`` allow, is ended, as
    one that failed.

    One that runs already is taken as restored if it has the memory of ``into``: its plain start,
    by whomever, is a restore.

    Errors: ``Conflict`` (it runs), ``NotFound``, ``NotSupported``, ``CheckpointError`` with CRIU's
    own lines or because it was started afresh, ``EngineUnavailable``. The checkpoint is kept in
    every case, so that it can be tried again.
    """
    started = time.monotonic()
    async with limits.within(TOO_LATE):
        facts = await answered(engine.remembered_facts(), limits.hangs_after_s)
        looking = inspect_when_stopped(engine, container, limits.hangs_after_s)
        if into is None:
            found = await looking
            read = await _outcome(dump_facts(engine, found.id, name))
        else:  # at once: to ask the engine takes as long as to read a small dump
            reading = dump_facts(engine, container, name, into)
            looked, read = await asyncio.gather(_outcome(looking), _outcome(reading))
            found = _succeeded(looked)
    if found.running and not await _has_memory_of(engine, found, name, into):
        raise Conflict(
            f"{found.name} is running",
            resolution="only a paused worker can be resumed",
        )
    dump = _succeeded(read)
    refuse_obstacles(facts, found)
    attempts = 1
    changed: Sequence[ChangedFile] = ()
    if found.running:
        attempts = 0
    elif into is not None:
        folder = CheckpointFolder(into)
        layer = None if options.keep_files else found.upper_folder
        if layer is not None and not await asyncio.to_thread(differs, folder, found.started_at):
            layer = None
        check = asyncio.ensure_future(
            check_unless_it_hangs(folder.path, folder.memory, limits.hangs_after_s)
        )
        try:
            async with limits.within(TOO_LATE):
                if layer is not None or dump.size_bytes > LITTLE_BYTES:
                    await check  # before anything is changed, or long before the engine needs it
                if layer is not None:
                    await put_back(folder, layer, found.started_at, limits.hangs_after_s)
            changed = await asyncio.to_thread(changed_since, folder.held, found.mounted)
            work = Work(facts, engine.socket, found.id, folders=(folder.restore_work,))
            await resume(engine, work, folder, search_path, options, limits, found.name, check)
        finally:
            await end(check)
    else:
        logs = [work / "restore.log" for work in facts.work_folders(found.id)]
        attempts = await _start(
            engine,
            found,
            name,
            facts.checkpoint_folder(found.id, name),
            logs,
            Work(facts, engine.socket, found.id),
            limits,
        )
    pid, continuity = await _prove(engine, found.id, dump)
    if continuity is Continuity.FRESH:
        with contextlib.suppress(Conflict):  # it has ended since
            await engine.kill(found.id)
        raise CheckpointError(
            f"{found.name} was started anew instead of being restored, and was stopped again",
            details=f"Docker {facts.version} reported success, but the process does not have the "
            f"memory of the checkpoint {name}",
            resolution="the checkpoint is intact: try again, or on another version of Docker",
        )
    exit_code = None
    if continuity is Continuity.ENDED:
        # Until an engine has noticed, it has 0.
        ended = await inspect_when_stopped(engine, found.id, limits.hangs_after_s)
        exit_code = ended.exit_code
    return Restored(
        container_id=found.id,
        name=name,
        pid=pid,
        duration_s=time.monotonic() - started,
        attempts=attempts,
        continuity=continuity,
        exit_code=exit_code,
        changed_files=changed,
    )


async def _outcome(work: Awaitable[T]) -> T | WarmbootError:
    try:
        return await work
    except WarmbootError as error:
        return error


def _succeeded(outcome: T | WarmbootError) -> T:
    if isinstance(outcome, WarmbootError):
        raise outcome
    return outcome


async def _prove(
    engine: DockerEngine, container_id: str, dump: DumpFacts
) -> tuple[int, Continuity]:
    """The first process's pid, and whether it has the dump's memory.

    runc's own state says sooner than the engine which process that is.
    """

    def prove(pid: int) -> tuple[int, Continuity]:
        return pid, compare(dump, pid) if pid else Continuity.ENDED

    pid, continuity = await asyncio.to_thread(lambda: prove(first_process(container_id)))
    if not pid:
        pid = (await engine.inspect(container_id)).pid
        pid, continuity = await asyncio.to_thread(prove, pid)
    return pid, continuity


async def _has_memory_of(
    engine: DockerEngine, container: ContainerFacts, name: str, into: Path | None
) -> bool:
    if into is None:
        return False
    dump = await dump_facts(engine, container.id, name, into)
    return await asyncio.to_thread(compare, dump, container.pid) is Continuity.SAME


async def _start(
    engine: DockerEngine,
    container: ContainerFacts,
    name: str,
    folder: Path,
    logs: list[Path],
    work: Work,
    limits: Limits,
) -> int:
    """Start it, with other bytes each time; how many attempts it took."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        used = salt(folder)
        async with holding_log(logs) as log:
            try:
                call = engine.start_from(container.id, name)
                await unless_it_hangs(work, call, limits)
            except (CheckpointError, Conflict, DiskFull) as error:
                await _forget_copy(engine, used)
                if attempt < MAX_ATTEMPTS and CONTENT_EXISTS in error.details:
                    continue
                raise restore_failure(container.name, name, log.errors(), error) from error
        await _forget_copy(engine, used)
        return attempt
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _forget_copy(engine: DockerEngine, used: str) -> None:
    """The engine has answered, so containerd's copy of the memory is of no use any more."""

    def forget() -> None:
        forget_restored(scratch_folders(engine.socket), (used,))

    await asyncio.to_thread(forget)


def salt(folder: Path) -> str:
    """Make a checkpoint's bytes unlike any that were packed before; what makes them so."""
    made = secrets.token_hex(16)
    try:
        (folder / SALT_FILE).write_text(made + "\n")
    except OSError as error:
        raise DiskFull(
            "the checkpoint cannot be prepared for its restore",
            details=str(error),
            resolution="check that the disk has free space and is not mounted read-only",
        ) from error
    return made

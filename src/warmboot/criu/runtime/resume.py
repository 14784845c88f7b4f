"""Resumes a container by its plain start, which the runtime turns into a restore."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from warmboot.criu.in_progress import Limits, Work, unless_it_hangs
from warmboot.criu.log import CriuLog
from warmboot.criu.refusals import restore_failure
from warmboot.criu.runtime.dump import MASKED, RESTORE_OPTIONS
from warmboot.criu.runtime.folders import CheckpointFolder, clear
from warmboot.criu.runtime.left_shims import end_shim, is_kept
from warmboot.criu.runtime.orders import order, sparing_check
from warmboot.criu.runtime.process import first_process
from warmboot.criu.runtime_work import end_members
from warmboot.docker.engine import DockerEngine
from warmboot.model.checkpoint import AS_IT_WAS, ResumeOptions
from warmboot.model.errors import (
    CheckpointError,
    Conflict,
    DiskFull,
    EngineUnavailable,
    HostError,
    NotFound,
)
from warmboot.system.back_off import BackOff
from warmboot.system.concurrency import end

RESTORE_LOG = "restore.log"
FORGETS_WITHIN_S = 10.0
"""containerd, when a shim is gone."""


async def resume(
    engine: DockerEngine,
    work: Work,
    folder: CheckpointFolder,
    search_path: str,
    options: ResumeOptions,
    limits: Limits,
    worker: str,
    check: asyncio.Future[None],
) -> None:
    """Start the container from ``folder``; ``worker`` is what it is called in errors.

    ``check`` is the check of its images, done or in progress: the engine needs some time before it
    calls the runtime. Where that is called before it is done, the runtime checks them itself.
    After a failure the order stands, as the worker is still paused.
    """
    await give_order(work.container_id, folder, search_path, options)
    log = CriuLog()
    try:
        await _start_while(check, engine, work, limits)
    except (CheckpointError, Conflict, DiskFull) as error:
        await _end_rest(engine, work.container_id)
        if check.done() and (damage := check.exception()) is not None:
            raise damage from error
        log.hold(folder.restore_work / RESTORE_LOG)
        raise restore_failure(worker, folder.path.name, log.errors(), error) from error
    finally:
        log.close()


async def _start_while(
    check: asyncio.Future[None], engine: DockerEngine, work: Work, limits: Limits
) -> None:
    """A start that goes well though ``check`` has failed was checked by the runtime."""
    with sparing_check(work.container_id) as spare:
        start = asyncio.ensure_future(_start(engine, work, limits))
        try:
            await asyncio.wait({check}, timeout=limits.left_s)  # it may hang
            if check.done() and check.exception() is None:
                spare()
            await start
        finally:
            await end(start)


async def _start(engine: DockerEngine, work: Work, limits: Limits) -> None:
    """Again, if it has met what an engine has left that was killed."""
    container, loop = work.container_id, asyncio.get_running_loop()
    back_off = BackOff(first_s=0.05, longest_s=0.5)
    deadline_s: float | None = None
    while True:
        try:
            return await unless_it_hangs(work, engine.start_restored(container), limits)
        except (CheckpointError, Conflict) as error:
            if not is_kept(error.details, container):
                raise
            if deadline_s is None:
                await _end_rest(engine, container)
                if first_process(container) or not await end_shim(container):
                    raise
                deadline_s = loop.time() + FORGETS_WITHIN_S
            elif loop.time() > deadline_s:
                raise
        await back_off.pause()


async def _end_rest(engine: DockerEngine, container_id: str) -> None:
    """What a restore that broke off has left, unless the engine has it as the container."""
    with contextlib.suppress(EngineUnavailable, NotFound):
        if not (await engine.inspect(container_id)).running:
            await asyncio.to_thread(end_members, container_id)


async def give_order(
    container_id: str,
    folder: CheckpointFolder,
    search_path: str,
    options: ResumeOptions = AS_IT_WAS,
) -> None:
    """Have the container's next start, whoever starts it, be a restore from ``folder``.

    In a network of its own its connections are closed: it may get another address there, and gets
    it only later.
    """
    closes = options.close_connections or folder.has_own_network()

    def give() -> None:
        clear(folder.restore_work)
        folder.restore_work.mkdir(mode=0o700, parents=True)
        for empty in map(Path, MASKED.values()):
            empty.mkdir(mode=0o555, parents=True, exist_ok=True)
        order(
            container_id,
            search_path=search_path,
            images=folder.memory,
            work=folder.restore_work,
            options=("tcp-close", *RESTORE_OPTIONS) if closes else RESTORE_OPTIONS,
        )

    try:
        await asyncio.to_thread(give)
    except OSError as error:
        raise HostError(
            "the checkpoint cannot be prepared for its restore",
            details=str(error),
            resolution="check that the disk has free space and is not mounted read-only",
        ) from error

"""A dump or restore in progress: whether it makes progress, its end, and ending one that hangs.

Nothing tells from outside how far it is. But while it goes on files grow (CRIU's in containerd's
temporary folder, what containerd takes into its content store, the checkpoint's own), and the
runtime's processes read and write. What has not moved for a while is over, or hangs.

``unless_it_hangs`` is for a call that we wait for ourselves. A manager that is killed leaves its
engine at work: the dump goes on, ends the process, and its images are still being copied for a
while; ``until_quiet`` is for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from warmboot.criu.containerd import scratch_folders, work_in
from warmboot.criu.runtime_work import end_work, progress, runtimes_at_work
from warmboot.docker.facts import EngineFacts
from warmboot.model.errors import CheckpointError, EngineUnavailable, WarmbootError
from warmboot.system.concurrency import end

HANGS_AFTER_S = 120.0
QUIET_S = 3.0
LOOK_EVERY_S = 0.25
LONGEST_S = 3600.0
ANSWER_AFTER_END_S = 15.0

T = TypeVar("T")

Observation = tuple[frozenset[tuple[str, int, int]], frozenset[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine does with a container; ``names`` are the checkpoints that it may make.

    ``socket`` is the engine's, ``pid`` the container's first process, 0 when it has none.
    ``folders`` are those that it writes to when it is done past the engine, of which then nothing
    need be known.
    """

    facts: EngineFacts | None
    socket: Path
    container_id: str
    names: tuple[str, ...] = ()
    pid: int = 0
    folders: tuple[Path, ...] = ()

    def observe(self) -> Observation:
        if self.folders:
            files = frozenset(one for folder in self.folders for one in _files(folder))
            return files, progress(self.container_id)
        facts = self.facts
        if facts is None:
            return frozenset(), progress(self.container_id)
        folders = [facts.checkpoint_folder(self.container_id, name) for name in self.names]
        folders += [store.parents[1] / "ingest" for store in facts.content_stores()]
        folders += facts.work_folders(self.container_id)
        folders += work_in(scratch_folders(self.socket))
        files = frozenset(one for folder in folders for one in _files(folder))
        return files, progress(self.container_id)


async def answered(call: Awaitable[T], limit_s: float) -> T:
    """What the engine answers to a short question; ``EngineUnavailable`` after ``limit_s``."""
    try:
        async with asyncio.timeout(limit_s):
            return await call
    except TimeoutError as error:
        raise EngineUnavailable(
            "the Docker engine does not answer",
            details=f"it had not answered within {limit_s:g} s",
            resolution="see the engine's log; restart it if this continues",
        ) from error


async def unless_it_hangs(
    work: Work, call: Coroutine[Any, Any, None], hangs_after_s: float
) -> None:
    """Do ``call``, but end it when nothing of it has moved for ``hangs_after_s``.

    Then the container runs as before, and it is a ``CheckpointError``; ``EngineUnavailable`` when
    the engine does not say that it has ended.
    """
    task = asyncio.ensure_future(call)
    try:
        if await _moves_until_done(task, work, hangs_after_s):
            return task.result()
        await end_work(work.container_id, work.pid)
        await asyncio.wait({task}, timeout=ANSWER_AFTER_END_S)
        what = f"nothing of it had moved for {hangs_after_s:g} s, so it was ended"
        if not task.done():
            raise EngineUnavailable(
                "the Docker engine does not answer",
                details=what,
                resolution="see the engine's log; restart it if this continues",
            )
        error = task.exception()
        if isinstance(error, WarmbootError):
            raise CheckpointError(
                error.brief, details=f"{what}; {error.details}", resolution=error.resolution
            ) from error
        return task.result()
    finally:
        await end(task)


async def _moves_until_done(task: asyncio.Future[None], work: Work, hangs_after_s: float) -> bool:
    """Whether it is done; else it has not moved for so long."""
    loop = asyncio.get_running_loop()
    seen, changed = None, loop.time()
    while not task.done():
        await asyncio.wait({task}, timeout=min(1.0, hangs_after_s / 4))
        now = None if task.done() else await asyncio.to_thread(work.observe)
        if now != seen:
            seen, changed = now, loop.time()
        elif not task.done() and loop.time() - changed >= hangs_after_s:
            return False
    return True


async def until_quiet(work: Work, hangs_after_s: float = HANGS_AFTER_S) -> None:
    """Return when nothing that belongs to such work has changed for ``QUIET_S``.

    While a runtime is at work on it, for ``hangs_after_s``; then that is ended. After an hour it
    gives up waiting.
    """
    loop = asyncio.get_running_loop()
    began = changed = loop.time()
    seen = await asyncio.to_thread(work.observe)
    while loop.time() - began < LONGEST_S:
        await asyncio.sleep(LOOK_EVERY_S)
        now = await asyncio.to_thread(work.observe)
        quiet_s = loop.time() - changed
        if now != seen:
            seen, changed = now, loop.time()
        elif not await asyncio.to_thread(runtimes_at_work, work.container_id):
            if quiet_s >= QUIET_S:
                return
        elif quiet_s >= hangs_after_s:
            await end_work(work.container_id, work.pid)


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    try:
        for path in folder.rglob("*"):
            found = path.lstat()
            yield str(path), found.st_size, found.st_mtime_ns
    except FileNotFoundError:  # gone in between: the next look sees it
        return

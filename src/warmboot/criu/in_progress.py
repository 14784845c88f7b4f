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
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from warmboot.criu.containerd import scratch_folders, work_in
from warmboot.criu.runtime_work import end_work, progress, runtimes_at_work
from warmboot.docker.facts import EngineFacts
from warmboot.model.errors import (
    CheckpointError,
    CheckpointTimeout,
    EngineUnavailable,
    WarmbootError,
)
from warmboot.system.concurrency import end

HANGS_AFTER_S = 120.0
QUIET_S = 3.0
LOOK_EVERY_S = 0.25
LONGEST_S = 3600.0
ANSWER_AFTER_END_S = 15.0
GIVE_MORE_TIME = (
    "give it more time (`--timeout SECONDS`), or none: then it may take as long as it "
    "makes progress"
)

T = TypeVar("T")

Observation = tuple[frozenset[tuple[str, int, int]], frozenset[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a dump or restore may take.

    ``hangs_after_s``: without any progress. ``timeout_s``: altogether, from when this was made;
    ``None``: as long as there is progress.
    """

    hangs_after_s: float = HANGS_AFTER_S
    timeout_s: float | None = None
    _began_s: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float | None:
        """Of ``timeout_s``; at least 0."""
        if self.timeout_s is None:
            return None
        return max(0.0, self._began_s + self.timeout_s - time.monotonic())

    @contextlib.asynccontextmanager
    async def within(self, brief: str) -> AsyncIterator[None]:
        """``CheckpointTimeout`` with ``brief`` if the body is not done by then; it is cancelled."""
        if self.left_s == 0.0:
            raise self._timeout(brief)
        try:
            async with asyncio.timeout(self.left_s):
                yield
        except TimeoutError as error:
            raise self._timeout(brief) from error

    def passed(self) -> str:
        """What to say when ``timeout_s`` is over."""
        return f"it was not done within the {self.timeout_s:g} s that the request allows"

    def _timeout(self, brief: str) -> CheckpointTimeout:
        return CheckpointTimeout(brief, details=self.passed(), resolution=GIVE_MORE_TIME)


NO_TIMEOUT = Limits()


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


async def unless_it_hangs(work: Work, call: Coroutine[Any, Any, None], limits: Limits) -> None:
    """Do ``call``, but end it when one of the ``limits`` is over.

    Then the container runs as before, and it is a ``CheckpointError``, after the time that the
    request allows a ``CheckpointTimeout``; ``EngineUnavailable`` when the engine does not say that
    it has ended.
    """
    task = asyncio.ensure_future(call)
    try:
        what = await _broken_limit(task, work, limits)
        if what is None:
            return task.result()
        what = f"{what}, so it was ended"
        kind = CheckpointTimeout if limits.left_s == 0.0 else CheckpointError
        await _end_until_done(task, work)
        if not task.done():
            raise EngineUnavailable(
                "the Docker engine does not answer",
                details=what,
                resolution="see the engine's log; restart it if this continues",
            )
        error = task.exception()
        if isinstance(error, WarmbootError):
            advice = GIVE_MORE_TIME if kind is CheckpointTimeout else error.resolution
            raise kind(
                error.brief, details=f"{what}; {error.details}", resolution=advice
            ) from error
        return task.result()
    finally:
        await end(task)


async def _broken_limit(task: asyncio.Future[None], work: Work, limits: Limits) -> str | None:
    """Which limit it has broken; ``None``: it is done."""
    loop = asyncio.get_running_loop()
    seen, changed = None, loop.time()
    while True:
        waits_s = min(1.0, limits.hangs_after_s / 4)
        left_s = limits.left_s
        await asyncio.wait({task}, timeout=waits_s if left_s is None else min(waits_s, left_s))
        if task.done():
            return None
        if limits.left_s == 0.0:
            return limits.passed()
        now = await asyncio.to_thread(work.observe)
        if now != seen:
            seen, changed = now, loop.time()
        elif loop.time() - changed >= limits.hangs_after_s:
            return f"nothing of it had moved for {limits.hangs_after_s:g} s"


async def _end_until_done(task: asyncio.Future[None], work: Work) -> None:
    """Again and again, as what was asked for may be about to begin; for some seconds."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + ANSWER_AFTER_END_S
    while not task.done() and loop.time() < deadline_s:
        await end_work(work.container_id, work.pid)
        await asyncio.wait({task}, timeout=LOOK_EVERY_S)


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

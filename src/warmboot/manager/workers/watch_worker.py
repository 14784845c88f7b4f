"""Watches a running worker: records its exit, and applies its policy.

    running ─▶ one task that waits for its process to end (an engine that restarts included)
           └─▶ one task for its policy: idle ─▶ pause;  every N seconds ─▶ checkpoint, retention

Both end when the worker leaves ``running``; while a checkpoint is being made they go on.

One that is paused or has ended may be started or removed by others, by `docker start` and `docker
rm`: one task for all follows what their engine tells of containers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from warmboot.criu.activity import cpu_seconds, has_connection
from warmboot.docker.engine import DockerEngine
from warmboot.manager.core.background import Work
from warmboot.manager.core.idle_clock import ActivitySample, IdleClock
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.workers.policies.worker_policies import check_every_s, next_checkpoint_s
from warmboot.manager.workers.recover_worker import LABEL, STARTED_BY_OTHERS, RecoverWorker
from warmboot.model.errors import (
    EngineUnavailable,
    IllegalTransition,
    NotFound,
    WarmbootError,
)
from warmboot.model.worker import Worker, WorkerState
from warmboot.store import Store

log = structlog.get_logger(__name__)

_S = WorkerState
ASK_AGAIN_S = 1.0
LOOK_BACK_S = 1.0
OTHERS = "workers-by-others"

Act = Callable[[Worker], Awaitable[None]]


class WatchWorker:
    """``pause`` and ``checkpoint`` are what the policy does."""

    def __init__(
        self,
        store: Store,
        engine: DockerEngine,
        tasks: Tasks,
        recover: RecoverWorker,
        pause: Act,
        checkpoint: Act,
    ) -> None:
        self._store = store
        self._engine = engine
        self._tasks = tasks
        self._recover = recover
        self._pause = pause
        self._checkpoint = checkpoint

    async def follow(self, worker: Worker) -> None:
        """Begin or end the watching, as its state asks for."""
        if worker.state is _S.CHECKPOINTING:
            return
        if worker.state in STARTED_BY_OTHERS and not self._tasks.running(OTHERS):
            since_s = time.time() - LOOK_BACK_S
            self._tasks.keep_going(Work.WATCH_WORKERS, OTHERS, lambda: self._follow_others(since_s))
        end, policy = f"worker-end {worker.id}", f"worker-policy {worker.id}"
        if worker.state is not _S.RUNNING:
            await self._tasks.cancel(end)
            await self._tasks.cancel(policy)
            return
        if not self._tasks.running(end):
            docker_id = worker.docker_id or ""
            self._tasks.keep_going(
                Work.WATCH_WORKERS, end, lambda: self._until_end(worker.id, docker_id)
            )
        asked = worker.spec.policy
        wanted = asked.pause_after_idle_s is not None or asked.checkpoint_every_s is not None
        if wanted and not self._tasks.running(policy):
            self._tasks.keep_going(Work.WORKER_POLICIES, policy, lambda: self._keep_policy(worker))

    async def _until_end(self, worker_id: UUID, docker_id: str) -> None:
        while True:
            try:
                await self._engine.wait_stopped(docker_id, timeout_s=None)
                worker = await self._store.workers.get(worker_id)
                if worker.state is _S.CHECKPOINTING:
                    await asyncio.sleep(ASK_AGAIN_S)
                    continue
                if worker.state is not _S.RUNNING:
                    return
                await self._recover(worker_id)
            except EngineUnavailable as error:
                log.warning("a worker cannot be watched", worker=str(worker_id), why=error.details)
                await asyncio.sleep(ASK_AGAIN_S)
            except NotFound:
                # Either the worker was removed, or its container was, which settling records.
                await self._settle_gone(worker_id)
                return

    async def _settle_gone(self, worker_id: UUID) -> None:
        try:
            await self._recover(worker_id)
        except NotFound:
            return

    async def _follow_others(self, since_s: float) -> None:
        told_s, away = since_s, False
        while True:
            try:
                if away:  # an engine that was away does not tell what happened before
                    for worker in await self._store.workers.list(STARTED_BY_OTHERS):
                        await self._look(worker.id)
                async for told in self._engine.container_events(told_s):
                    away, told_s = False, int(told.get("timeNano", 0)) / 1e9 or told_s
                    await self._happened(told)
            except EngineUnavailable as error:
                if not away:
                    log.warning("workers that do not run cannot be watched", why=error.details)
            away = True
            await asyncio.sleep(ASK_AGAIN_S)

    async def _happened(self, told: Mapping[str, Any]) -> None:
        labels = (told.get("Actor") or {}).get("Attributes") or {}
        if told.get("Action") in ("start", "destroy") and LABEL in labels:
            with contextlib.suppress(ValueError):  # a label that somebody else has given
                await self._look(UUID(labels[LABEL]))

    async def _look(self, worker_id: UUID) -> None:
        with contextlib.suppress(NotFound, IllegalTransition):  # somebody else knows more
            await self._recover(worker_id, only=STARTED_BY_OTHERS)

    async def _keep_policy(self, worker: Worker) -> None:
        policy = worker.spec.policy
        idle = IdleClock(await self._sample(worker)) if policy.pause_after_idle_s else None
        every_s = check_every_s(policy)
        checkpointed_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            due_s = next_checkpoint_s(policy, checkpointed_s, now_s)
            waits = [wait for wait in (every_s, None if due_s is None else due_s - now_s) if wait]
            await asyncio.sleep(min(waits, default=ASK_AGAIN_S))
            try:
                worker = await self._store.workers.get(worker.id)
                if worker.state not in (_S.RUNNING, _S.CHECKPOINTING):
                    return
                if idle is not None and idle.see(await self._sample(worker)) >= (
                    policy.pause_after_idle_s or 0
                ):
                    log.info("pausing an idle worker", worker=worker.name)
                    await self._pause(worker)
                    return
                if due_s is not None and time.monotonic() >= due_s:
                    checkpointed_s = time.monotonic()
                    await self._checkpoint(worker)
            except NotFound:
                return
            except WarmbootError as error:
                # Told by an event already; the next look tries again.
                log.warning("a worker's policy failed", worker=worker.name, error=error.brief)
                idle = IdleClock(await self._sample(worker)) if idle is not None else None

    async def _sample(self, worker: Worker) -> ActivitySample:
        """What it does now; nothing, as far as can be seen, while the engine is away."""
        cpu_s, connected = 0.0, False
        try:
            found = await self._engine.inspect(worker.docker_id or "")
            if found.pid:
                cpu_s = await asyncio.to_thread(cpu_seconds, found.pid)
                ports = worker.spec.policy.wake_on
                connected = await asyncio.to_thread(has_connection, found.pid, ports)
        except EngineUnavailable as error:
            log.warning("a worker cannot be looked at", worker=worker.name, why=error.details)
        now_s = time.monotonic()
        if connected:  # nobody could wake it by the next byte: that is for the kernel to keep
            return ActivitySample(now_s, cpu_s, now_s)
        if worker.heard_at is None:
            return ActivitySample(now_s, cpu_s)
        ago_s = (datetime.now(UTC) - worker.heard_at).total_seconds()
        return ActivitySample(now_s, cpu_s, now_s - max(0.0, ago_s))

"""Pauses workers with such a policy when the manager stops, and resumes them when it starts.

    running ──stop──▶ paused, to be resumed at the start ──start──▶ running
                          │
                          └─ paused, resumed or removed by hand: that counts

What is under way with a worker when the manager stops is waited for first. At the next start the
engine may come later than the manager, so it is asked again until it is there.
"""

from __future__ import annotations

from functools import partial
from uuid import UUID

import structlog

from warmboot.manager.core.background import Work
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.workers.recover_worker import BUSY, FIRST_WAIT_S, LONGEST_WAIT_S
from warmboot.manager.workers.workers import Workers
from warmboot.model.errors import Conflict, DiskFull, EngineUnavailable, Unavailable, WarmbootError
from warmboot.model.worker import Worker, WorkerState
from warmboot.store import Store
from warmboot.system.back_off import BackOff

log = structlog.get_logger(__name__)

_S = WorkerState


class StopWorkers:
    def __init__(self, store: Store, tasks: Tasks, workers: Workers) -> None:
        self._store = store
        self._tasks = tasks
        self._workers = workers

    async def stop(self) -> None:
        """Pause those whose policy asks for it, and finish what is under way."""
        for worker in await self._store.workers.list({_S.RUNNING, *BUSY}):
            if worker.spec.policy.pause_at_shutdown:
                try:
                    await self._pause(worker.id)
                except WarmbootError as error:
                    log.error("a worker could not be paused", worker=worker.name, why=str(error))
        await self._workers.finish()

    async def start(self) -> None:
        """Resume those that were paused because the manager stopped, or that just were being."""
        for worker in await self._store.workers.list({_S.PAUSED, _S.PAUSING}):
            if worker.resume_at_start:
                key = f"resume-at-start {worker.id}"
                self._tasks.keep_going(Work.RESUME_WORKERS, key, partial(self._resume, worker))

    async def _pause(self, worker_id: UUID) -> None:
        """When what is under way is done: a checkpoint, say, that its policy makes just now."""
        for last in (False, True):
            worker = await self._workers.settled(worker_id)
            if worker.state is not _S.RUNNING:
                return
            try:
                await self._workers.pause_by_policy(worker, resume_at_start=True)
            except Conflict:
                if last or (await self._store.workers.get(worker_id)).state not in BUSY:
                    raise
            else:
                return

    async def _resume(self, worker: Worker) -> None:
        back_off = BackOff(FIRST_WAIT_S, LONGEST_WAIT_S)
        while True:
            try:
                await self._workers.wake(str(worker.id))
            except EngineUnavailable as error:
                log.warning("a worker waits for its engine", worker=worker.name, why=error.details)
                await back_off.pause()
            except (DiskFull, Unavailable):  # the database's, which says nothing of the worker
                raise
            except WarmbootError as error:
                log.error("a worker could not be resumed", worker=worker.name, why=str(error))
                return
            else:
                return

"""Reconciles workers with their engine when the manager starts.

An engine that does not answer keeps nobody waiting: its workers are recovered when it does.
"""

from __future__ import annotations

import structlog

from warmboot.manager.core.reconcile_failures import ReconcileFailures
from warmboot.manager.workers.recover_worker import BUSY, RecoverWorker
from warmboot.manager.workers.stop_workers import StopWorkers
from warmboot.manager.workers.worker_states import WorkerStates
from warmboot.manager.workers.workers import Workers
from warmboot.model.errors import EngineUnavailable, NotFound
from warmboot.model.worker import Worker, WorkerState
from warmboot.store import Store

log = structlog.get_logger(__name__)


class ReconcileWorkers:
    """Call it once, after half-done sagas were undone."""

    def __init__(
        self,
        store: Store,
        states: WorkerStates,
        recover: RecoverWorker,
        workers: Workers,
        stops: StopWorkers,
        reconcile_failures: ReconcileFailures,
    ) -> None:
        self._store = store
        self._states = states
        self._recover = recover
        self._workers = workers
        self._stops = stops
        self._reconcile_failures = reconcile_failures

    async def __call__(self) -> None:
        attempt = self._reconcile_failures.attempt
        for worker in await self._store.workers.list():
            await attempt(f"worker {worker.name}", self._worker(worker), worker.id)
        await attempt("workers that were paused at the stop", self._stops.start())

    async def _worker(self, worker: Worker) -> None:
        if worker.state in BUSY:
            self._recover.later(worker.id)
            return
        try:
            await self._recover(worker.id)
            now = await self._store.workers.get(worker.id)
        except EngineUnavailable as error:
            log.warning("a worker waits for its engine", worker=worker.name, why=error.details)
            self._recover.later(worker.id)
            now = worker
        except NotFound:
            return
        if now.state is WorkerState.CREATING and (now.docker_id is None or now.spec.start):
            self._workers.begin(now)
        await self._states.tell_followers(now)

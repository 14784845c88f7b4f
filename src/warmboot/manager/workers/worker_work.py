"""The failure of a pause or resume: the worker is recovered, and the failure is reported.

Half a dump cannot be taken back, and half a restore not kept. So nothing is journaled but the
worker's state, from which ``reconcile_workers`` knows after ``kill -9`` that something was under
way: what became of it is asked of the engine (see ``recover_worker``), then as here.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import structlog

from warmboot.manager.core.event_log import EventLog
from warmboot.manager.workers.recover_worker import RecoverWorker
from warmboot.model.checkpoint import Checkpoint
from warmboot.model.errors import Conflict, NotFound, WarmbootError
from warmboot.model.worker import Worker, WorkerState
from warmboot.store import Store

log = structlog.get_logger(__name__)


class WorkerWork:
    """``under_way``: a worker's states during it. A failure is told as ``worker.NAME-failed``."""

    def __init__(
        self,
        store: Store,
        events: EventLog,
        recover: RecoverWorker,
        name: str,
        *under_way: WorkerState,
    ) -> None:
        self._store = store
        self._events = events
        self._recover = recover
        self._name = name
        self._under_way = under_way

    @contextlib.asynccontextmanager
    async def __call__(self, worker: Worker, checkpoint: Checkpoint) -> AsyncIterator[None]:
        """On an error of the body the worker is recovered first, then it is raised."""
        try:
            yield
        except Exception as error:  # whatever it is, and raised again: nothing is under way now
            await self._settle_now(worker)
            if isinstance(error, WarmbootError):
                told = await self._reason(worker, error)
                await self._tell_failure(worker, checkpoint, told)
                if told is not error:
                    raise told from error
            raise

    async def _reason(self, worker: Worker, error: WarmbootError) -> WarmbootError:
        """What settling has found out, if the worker can never be paused or resumed again."""
        with contextlib.suppress(NotFound):
            now = await self._store.workers.get(worker.id)
            if now.state is WorkerState.FAILED and now.error is not None:
                known = (str(now.error[part]) for part in ("brief", "details", "resolution"))
                brief, details, resolution = known
                return Conflict(brief, details=details, resolution=resolution)
        return error

    async def _settle_now(self, worker: Worker) -> None:
        try:
            await self._recover(worker.id)
        except Exception as failure:  # the first error is the one to tell
            log.exception("a worker could not be recovered", worker=worker.name, why=str(failure))

    async def _tell_failure(
        self, worker: Worker, checkpoint: Checkpoint, error: WarmbootError
    ) -> None:
        unsettled = True  # unless it is seen not to be
        try:
            now = await self._store.workers.update(worker.id, error=error.as_dict())
            unsettled = now.state in self._under_way
            await self._events.emit(
                f"worker.{self._name}-failed",
                worker.id,
                name=worker.name,
                checkpoint=checkpoint.name,
                error=error.as_dict(),
            )
        except NotFound:
            unsettled = False
        finally:
            if unsettled:
                self._recover.later(worker.id)

"""One piece of work of an engine with a worker: a dump, a restore.

It is a saga of one step, since what the step records is what its undo would find out, too: asked of
the engine, once that answers (see ``settle_worker``).
"""

from __future__ import annotations

from uuid import UUID

from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.saga import Action, Context, Saga, SagaRunner, Step
from warmboot.manager.workers.settle_worker import SettleWorker
from warmboot.model.checkpoint import Checkpoint
from warmboot.model.errors import NotFound, WarmbootError
from warmboot.model.worker import Worker, WorkerState
from warmboot.store import Store


class WorkerWork:
    """``under_way``: a worker's states during it. A failure is told as ``worker.NAME-failed``."""

    def __init__(
        self,
        store: Store,
        runner: SagaRunner,
        events: EventLog,
        settle: SettleWorker,
        name: str,
        step: tuple[str, Action],
        *under_way: WorkerState,
    ) -> None:
        self._store = store
        self._runner = runner
        self._events = events
        self._settle = settle
        self._name = name
        self._under_way = under_way
        self.saga = Saga(f"{name}-worker", (Step(*step, self._undo),))

    async def __call__(self, worker: Worker, checkpoint: Checkpoint, **more: bool) -> Context:
        """On an error the worker is settled first, then it is raised. ``more`` is journaled."""
        data = {
            "checkpoint": str(checkpoint.id),
            "name": checkpoint.name,
            "docker_id": worker.docker_id,
            **more,
        }
        try:
            return await self._runner.run(self.saga, str(worker.id), data, {"worker": worker})
        except WarmbootError as error:
            await self._tell_failure(worker, checkpoint, error)
            raise

    async def _undo(self, context: Context) -> None:
        if context.live:
            await self._settle(UUID(context.subject_id))
        else:  # an earlier manager's: its engine may still be at work on it
            self._settle.later(UUID(context.subject_id))

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
                self._settle.later(worker.id)

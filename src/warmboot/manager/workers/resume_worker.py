"""Resume a worker from a checkpoint.

    accept (state) ─▶ restore, memory proven ─▶ record
                         │ error, kill -9
                         ▼
          recover: it runs from a checkpoint, or is back where it was

The checkpoint stays in every case, so a resume that failed can be asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from warmboot.criu.continuity import Continuity
from warmboot.criu.in_progress import HANGS_AFTER_S, Limits
from warmboot.criu.restore import TOO_LATE, Restored, restore
from warmboot.criu.runtime.cold import ColdCheckpoints
from warmboot.criu.runtime.places import CheckpointPlaces
from warmboot.docker.engine import DockerEngine
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.workers.recover_worker import RecoverWorker
from warmboot.manager.workers.worker_states import WorkerStates, refusal
from warmboot.manager.workers.worker_work import WorkerWork
from warmboot.model.checkpoint import (
    AS_IT_WAS,
    ChangedFile,
    Checkpoint,
    CheckpointState,
    ResumeOptions,
)
from warmboot.model.errors import Conflict, IllegalTransition, NotFound, NotSupported
from warmboot.model.worker import WORKER_TRANSITIONS, Worker, WorkerState
from warmboot.store import Store
from warmboot.system.usage import allocated_below


def _refuse_what_it_cannot(chosen: Checkpoint, options: ResumeOptions) -> None:
    if options.close_connections and chosen.folder is None:
        raise NotSupported(
            f"{chosen.name} is the engine's own checkpoint, whose resume takes no options",
            details="what becomes of its connections is in /etc/criu/runc.conf",
            resolution="leave the option out, or create the worker anew on warmboot's runtime "
            "(`warmboot doctor --fix`)",
        )


class ResumeWorker:
    def __init__(
        self,
        store: Store,
        engine: DockerEngine,
        events: EventLog,
        states: WorkerStates,
        recover: RecoverWorker,
        places: CheckpointPlaces,
        cold: ColdCheckpoints,
        hangs_after_s: float = HANGS_AFTER_S,
    ) -> None:
        self._cold = cold
        self._hangs_after_s = hangs_after_s
        self._store = store
        self._engine = engine
        self._states = states
        self._places = places
        self._work = WorkerWork(store, events, recover, "resume", WorkerState.RESUMING)

    async def accept(
        self, worker: Worker, name: str | None, options: ResumeOptions = AS_IT_WAS
    ) -> Checkpoint:
        """Enter ``resuming``, and return the checkpoint; the caller must call ``work`` next.

        ``Conflict`` if the worker is neither paused nor ended, or the checkpoint is not ready;
        ``NotFound`` for an unknown checkpoint, ``NotSupported``.
        """
        if not WORKER_TRANSITIONS.allows(worker.state, WorkerState.RESUMING):
            raise refusal(worker, "resumed")
        try:
            async with self._store.transaction():  # or it is deleted before it counts as in use
                chosen = await self._chosen(worker, name)
                if chosen.state is not CheckpointState.READY:
                    raise Conflict(
                        f"the checkpoint {chosen.name} of {worker.name} is {chosen.state}",
                        resolution="resume from another one (`warmboot worker checkpoints "
                        f"{worker.name}`)",
                    )
                _refuse_what_it_cannot(chosen, options)
                now = await self._states.record(worker.id, WorkerState.RESUMING)
        except IllegalTransition as error:
            raise await self._states.refusal_now(worker.id, "resumed") from error
        await self._states.announce(now)
        return chosen

    async def work(
        self,
        worker: Worker,
        chosen: Checkpoint,
        options: ResumeOptions = AS_IT_WAS,
        timeout_s: float | None = None,
    ) -> tuple[Worker, Sequence[ChangedFile]]:
        """Restore an accepted worker; the worker then, and what has changed in its mounts.

        After an error it is recovered, then it is raised. What is not done within ``timeout_s`` is
        ended, and the worker is where it was.
        """
        limits = Limits(self._hangs_after_s, timeout_s)
        async with self._work(worker, chosen), self._plain(chosen, limits):
            restored = await restore(
                self._engine,
                worker.docker_id or "",
                chosen.name,
                into=chosen.folder,
                search_path=self._places.search_path,
                options=options,
                limits=limits,
            )
            return await self._record(worker.id, restored), restored.changed_files

    @contextlib.asynccontextmanager
    async def _plain(self, chosen: Checkpoint, limits: Limits) -> AsyncIterator[None]:
        if chosen.folder is None:
            yield  # the engine's
            return
        async with contextlib.AsyncExitStack() as held:
            async with limits.within(TOO_LATE):
                unpacked = await held.enter_async_context(self._cold.held_plain(chosen.folder))
            if unpacked:
                stored_bytes = await asyncio.to_thread(allocated_below, chosen.folder)
                await self._store.checkpoints.update(chosen.id, stored_bytes=stored_bytes)
            yield

    async def _chosen(self, worker: Worker, name: str | None) -> Checkpoint:
        if name is not None:
            return await self._store.checkpoints.named(worker.id, name)
        if worker.paused_into is not None:
            try:
                return await self._store.checkpoints.get(worker.paused_into)
            except NotFound:  # somebody deleted just that one
                pass
        for checkpoint in await self._store.checkpoints.of_worker(worker.id, readable=True):
            if checkpoint.state is CheckpointState.READY:
                return checkpoint
        raise NotFound(
            f"{worker.name} has no checkpoint",
            resolution=f"remove the worker (`warmboot worker rm {worker.name}`) and recreate it",
        )

    async def _record(self, worker_id: UUID, restored: Restored) -> Worker:
        changes: dict[str, Any] = {"paused_into": None, "resume_at_start": False, "error": None}
        told: dict[str, Any] = {
            "checkpoint": restored.name,
            "duration_s": round(restored.duration_s, 3),
            "attempts": restored.attempts,
        }
        if restored.changed_files:
            told["changed_files"] = [one.as_dict() for one in restored.changed_files]
        if restored.continuity is Continuity.ENDED:
            return await self._states.enter(
                worker_id,
                WorkerState.EXITED,
                told={**told, "exit_code": restored.exit_code},
                exit_code=restored.exit_code,
                **changes,
            )
        return await self._states.enter(
            worker_id,
            WorkerState.RUNNING,
            told=told,
            resumed_at=datetime.now(UTC),
            exit_code=None,
            **changes,
        )

"""Workers, as the API offers them: what is asked for is checked, begun, and watched to its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import structlog

from warmboot.docker.engine import DockerEngine
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.protocols import Exported, Resumed, WorkerUntil
from warmboot.manager.workers.create_worker import CreateWorker
from warmboot.manager.workers.pause_worker import PauseWorker
from warmboot.manager.workers.recover_worker import BUSY, RecoverWorker
from warmboot.manager.workers.resume_worker import ResumeWorker
from warmboot.manager.workers.worker_checkpoints import WorkerCheckpoints
from warmboot.manager.workers.worker_states import WorkerStates, refusal
from warmboot.model.checkpoint import AS_IT_WAS, Checkpoint, ResumeOptions
from warmboot.model.errors import Conflict, EngineUnavailable, InUse, InvalidRequest
from warmboot.model.sessions import LogChunk
from warmboot.model.worker import Worker, WorkerSpec, WorkerState
from warmboot.store import Store

log = structlog.get_logger(__name__)

T = TypeVar("T")

_S = WorkerState
BUSY_TIMEOUT_S = 300.0
GIVE_UP_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 600.0
MAX_REPORT_BYTES = 16 * 1024


class Workers:
    """Implements ``protocols.Workers``."""

    def __init__(
        self,
        store: Store,
        engine: DockerEngine,
        events: EventLog,
        tasks: Tasks,
        states: WorkerStates,
        create: CreateWorker,
        pause: PauseWorker,
        resume: ResumeWorker,
        recover: RecoverWorker,
        checkpoints: WorkerCheckpoints,
    ) -> None:
        self._store = store
        self._engine = engine
        self._events = events
        self._tasks = tasks
        self._states = states
        self._create = create
        self._pause = pause
        self._resume = resume
        self._recover = recover
        self._checkpoints = checkpoints
        # Dumps and restores are never cancelled: half of one is worth nothing.
        self._work: set[asyncio.Task[Any]] = set()

    # -- asking --------------------------------------------------------------------------------

    async def list(self) -> Sequence[Worker]:
        return await self._store.workers.list()

    async def get(self, ref: str) -> Worker:
        return await self._store.workers.find(ref)

    async def wait(self, ref: str, until: WorkerUntil, timeout_s: float) -> Worker:
        worker_id = (await self.get(ref)).id

        async def look() -> Worker | None:
            worker = await self._store.workers.get(worker_id)
            return worker if _holds(worker, until) else None

        found = await self._events.wait_for(look, timeout_s, worker_id)
        return found or await self._store.workers.get(worker_id)

    async def logs(
        self, ref: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[LogChunk]:
        worker = await self.get(ref)
        if worker.docker_id is None:
            raise refusal(worker, "read: it has no container yet" if not worker.error else "read")
        async with aclosing(
            self._engine.output(worker.docker_id, follow=follow, tail=tail)
        ) as all_:
            async for chunk in all_:
                yield chunk

    # -- life ----------------------------------------------------------------------------------

    async def create(self, spec: WorkerSpec) -> UUID:
        """Begin; ``worker.running`` or ``worker.failed`` tells how it went."""
        await self._create.check(spec)
        worker = Worker(id=uuid4(), spec=spec, state=_S.CREATING, created_at=datetime.now(UTC))
        await self._store.workers.add(worker)
        await self._events.emit("worker.creating", worker.id, name=worker.name)
        self.begin(worker)
        return worker.id

    def begin(self, worker: Worker) -> None:
        """Bring up a worker that is ``creating``."""

        async def create() -> None:
            now = await self._store.workers.get(worker.id)
            if now.state is _S.CREATING:
                await self._create(now)

        self._tasks.keep_going(Work.CREATE_WORKERS, _create_key(worker.id), create)

    async def delete(self, ref: str, *, force: bool = False) -> None:
        worker = await self.get(ref)
        if worker.state in BUSY and force:
            await self._recover.give_up(worker)
            worker = await self.settled(worker.id, GIVE_UP_TIMEOUT_S)
        elif worker.state in BUSY:
            worker = await self.settled(worker.id)
        if worker.state is _S.RUNNING and not force:
            raise InUse(
                f"{worker.name} is running",
                resolution=f"pause it first, or remove it with force (`warmboot worker rm -f "
                f"{worker.name}`)",
            )
        await self._tasks.cancel(_create_key(worker.id))
        if worker.state is not _S.DELETING:
            worker = await self._states.enter(worker.id, _S.DELETING)
        try:
            await self._recover.delete(worker)
        except EngineUnavailable:
            self._recover.later(worker.id)
            raise
        await self._events.emit("worker.deleted", worker.id, name=worker.name)

    async def report(self, ref: str, kind: str, data: Mapping[str, Any]) -> None:
        """What a worker says of itself; also a sign of life."""
        size_bytes = len(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))
        if size_bytes > MAX_REPORT_BYTES:
            raise InvalidRequest(
                f"the report has {size_bytes} bytes",
                resolution=f"report at most {MAX_REPORT_BYTES}, and keep the rest elsewhere",
            )
        worker = await self.get(ref)
        await self._store.workers.update(worker.id, heard_at=datetime.now(UTC))
        await self._events.report(worker.id, report=kind, data=dict(data))

    # -- pause and resume ----------------------------------------------------------------------

    async def pause(
        self, ref: str, name: str | None = None, timeout_s: float | None = None
    ) -> Worker:
        """Pause it now; returns when it is paused."""
        worker = await self.get(ref)
        await self._dump(worker, name, leave_running=False, timeout_s=timeout_s)
        return await self._store.workers.get(worker.id)

    async def ask_pause(
        self, ref: str, name: str | None = None, timeout_s: float | None = None
    ) -> tuple[Worker, Callable[[], None]]:
        """Accept a pause; it begins when the second result is called, which must happen."""
        worker = await self.get(ref)
        made = await self._pause.accept(worker, name, leave_running=False, automatic=name is None)

        def begin() -> None:
            self._in_background(self._finish_dump(worker, made, timeout_s))

        return await self._store.workers.get(worker.id), begin

    async def resume(
        self,
        ref: str,
        checkpoint: str | None = None,
        options: ResumeOptions = AS_IT_WAS,
        timeout_s: float | None = None,
    ) -> Resumed:
        """Resume it now, from its newest checkpoint or a named one; returns when it runs."""
        worker = await self.get(ref)
        chosen = await self._resume.accept(worker, checkpoint, options)
        work = self._resume.work(worker, chosen, options, timeout_s)
        return Resumed(*await self._undisturbed(work))

    async def wake(self, ref: str) -> Worker:
        """Make it run whatever it does: paused, being paused, or running already."""
        worker_id = (await self.get(ref)).id
        while True:
            worker = await self.settled(worker_id)
            if worker.state is _S.RUNNING:
                return worker
            if worker.state is not _S.PAUSED:
                raise refusal(worker, "woken")
            try:
                chosen = await self._resume.accept(worker, None)
            except Conflict:
                if (await self._store.workers.get(worker_id)).state is _S.PAUSED:
                    raise  # not because somebody else was quicker
                continue
            await self._undisturbed(self._resume.work(worker, chosen))

    # -- checkpoints ---------------------------------------------------------------------------

    async def checkpoints(self, ref: str) -> Sequence[Checkpoint]:
        return await self._checkpoints.list(await self.get(ref))

    async def checkpoint(self, ref: str, name: str) -> Checkpoint:
        return await self._checkpoints.get(await self.get(ref), name)

    async def create_checkpoint(
        self,
        ref: str,
        name: str | None = None,
        *,
        leave_running: bool = True,
        timeout_s: float | None = None,
    ) -> Checkpoint:
        """Without ``leave_running`` it is a pause."""
        worker = await self.get(ref)
        return await self._dump(worker, name, leave_running=leave_running, timeout_s=timeout_s)

    async def delete_checkpoint(self, ref: str, name: str) -> None:
        await self._checkpoints.delete(await self.get(ref), name)

    async def export_checkpoint(self, ref: str, name: str) -> Exported:
        return await self._checkpoints.export(await self.get(ref), name)

    async def import_checkpoint(
        self, ref: str, name: str, chunks: AsyncIterator[bytes], size_bytes: int | None = None
    ) -> Checkpoint:
        return await self._checkpoints.bring_in(await self.get(ref), name, chunks, size_bytes)

    # -- the manager's own -----------------------------------------------------------------------

    async def pause_by_policy(self, worker: Worker, *, resume_at_start: bool = False) -> None:
        await self._dump(worker, None, leave_running=False, resume_at_start=resume_at_start)

    async def checkpoint_by_policy(self, worker: Worker) -> None:
        await self._dump(worker, None, leave_running=True)

    async def wake_by_connection(self, worker_id: UUID) -> None:
        await self.wake(str(worker_id))

    async def settled(self, worker_id: UUID, timeout_s: float = BUSY_TIMEOUT_S) -> Worker:
        """The worker when nothing is under way with it; as it is when that takes too long."""

        async def look() -> Worker | None:
            worker = await self._store.workers.get(worker_id)
            return None if worker.state in BUSY else worker

        found = await self._events.wait_for(look, timeout_s, worker_id)
        return found or await self._store.workers.get(worker_id)

    async def finish(self) -> None:
        """Wait until what is under way is done, for some minutes."""
        if self._work:
            await asyncio.wait(self._work, timeout=STOP_TIMEOUT_S)

    # -- inside ----------------------------------------------------------------------------------

    async def _dump(
        self,
        worker: Worker,
        name: str | None,
        *,
        leave_running: bool,
        resume_at_start: bool = False,
        timeout_s: float | None = None,
    ) -> Checkpoint:
        made = await self._pause.accept(
            worker,
            name,
            leave_running=leave_running,
            automatic=name is None,
            resume_at_start=resume_at_start,
        )
        return await self._undisturbed(self._finish_dump(worker, made, timeout_s))

    async def _finish_dump(
        self, worker: Worker, made: Checkpoint, timeout_s: float | None
    ) -> Checkpoint:
        finished = await self._pause.work(worker, made, timeout_s)
        key = f"retention {worker.id}"
        if not self._tasks.running(key):
            self._tasks.start(key, self._checkpoints.apply_retention(worker))
        return finished

    async def _undisturbed(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it to its end, also when the caller goes away."""
        return await asyncio.shield(self._in_background(work))

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Told by an event and by the worker; here so that nobody has to look for it.
            log.warning("work on a worker failed", why=str(error))


def _create_key(worker_id: UUID) -> str:
    return f"create-worker {worker_id}"


def _holds(worker: Worker, until: WorkerUntil) -> bool:
    if worker.state in (_S.FAILED, _S.DELETING):
        return True
    if until is WorkerUntil.SETTLED:
        ready = worker.docker_id is not None and not worker.spec.start
        return worker.state not in (*BUSY, _S.CREATING) or (worker.state is _S.CREATING and ready)
    if until is WorkerUntil.PAUSED:
        return worker.state in (_S.PAUSED, _S.EXITED)
    if until is WorkerUntil.RUNNING:
        return worker.state in (_S.RUNNING, _S.EXITED)
    return worker.state is _S.EXITED

"""Recovers a worker after an interruption: asks its engine for the actual state, and records it.

    pausing, checkpointing   checkpoint whole? process there?  ─▶ paused, running or exited
    resuming                 the process of a checkpoint?      ─▶ running, else back to where it was
    running                  still there?                      ─▶ running or exited
    deleting                                                   ─▶ gone
    paused, exited           started by what hung, or by hand? ─▶ running
    no container any more                                      ─▶ failed

It is the undo of pausing and resuming: half a dump cannot be undone, but what it has left can be
found. The engine must answer for that; while it does not, ``recover_alone`` does what it can, and
``later`` asks again. After a crash the engine may still be executing an earlier request; ``later``
waits until it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Any
from uuid import UUID

import structlog

from warmboot.criu.archives.interrupted_imports import discard_imports
from warmboot.criu.checkpoint import (
    delete_checkpoint,
    dump_facts,
    recover,
)
from warmboot.criu.continuity import Continuity, compare
from warmboot.criu.in_progress import HANGS_AFTER_S, Work, until_quiet
from warmboot.criu.lost_exit import inspect_when_stopped
from warmboot.criu.runtime.files import forget_copy
from warmboot.criu.runtime.places import CheckpointPlaces
from warmboot.criu.runtime.process import first_process
from warmboot.criu.runtime_work import end_members, end_without_first_thread, end_work
from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import ContainerFacts
from warmboot.manager.core.background import Work as Background
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.workers.recover_alone import RecoverAlone
from warmboot.manager.workers.worker_states import WorkerStates
from warmboot.model.checkpoint import Checkpoint, CheckpointState
from warmboot.model.errors import (
    CheckpointError,
    Conflict,
    ContainerError,
    EngineUnavailable,
    IllegalTransition,
    NotFound,
)
from warmboot.model.worker import Worker, WorkerState
from warmboot.store import Store
from warmboot.system.back_off import BackOff

log = structlog.get_logger(__name__)

_S = WorkerState
_DUMPING = (_S.PAUSING, _S.CHECKPOINTING)
BUSY = (*_DUMPING, _S.RESUMING)
"""Something is under way with a worker in these states."""

STARTED_BY_OTHERS = (_S.PAUSED, _S.EXITED)
"""In these states, a start of the container is somebody else's: a user's, or its engine's."""

LABEL = "dev.warmboot.worker"

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0


class RecoverWorker:
    """Idempotent; ``EngineUnavailable`` when it cannot be told now."""

    def __init__(
        self,
        store: Store,
        engine: DockerEngine,
        states: WorkerStates,
        tasks: Tasks,
        places: CheckpointPlaces,
        hangs_after_s: float = HANGS_AFTER_S,
    ) -> None:
        self._hangs_after_s = hangs_after_s
        self._store = store
        self._engine = engine
        self._states = states
        self._tasks = tasks
        self._places = places
        self._alone = RecoverAlone(store, engine, states, places, hangs_after_s)

    async def __call__(
        self, worker_id: UUID, only: Collection[WorkerState] = tuple(WorkerState)
    ) -> None:
        """``only`` if it is in one of these states: what is under way by then is somebody's."""
        worker = await self._store.workers.get(worker_id)
        if worker.state not in only:
            return
        if worker.state is _S.DELETING:
            await self.delete(worker)
            return
        if worker.state not in (*BUSY, *STARTED_BY_OTHERS, _S.RUNNING):
            await self._forget_unfinished(worker)
            return
        try:
            found = await inspect_when_stopped(
                self._engine, worker.docker_id or "", self._hangs_after_s
            )
        except NotFound:
            if worker.state is _S.EXITED:
                await self._forget_unfinished(worker)
            else:
                await self._gone(worker)
            return
        except EngineUnavailable:
            if worker.state not in BUSY or not await self._alone(worker):
                raise
            self._look_later(worker.id)
            return
        await self._settle(worker, found)

    async def _settle(self, worker: Worker, found: ContainerFacts) -> None:
        if worker.state in _DUMPING:
            await self._after_dump(worker, found)
        elif worker.state is _S.RESUMING:
            await self._after_restore(worker, found)
        elif worker.state in STARTED_BY_OTHERS:
            await self._while_stopped(worker, found)
        elif not found.running:
            await self._ended(worker, found)

    def later(self, worker_id: UUID) -> None:
        """Recover the worker as soon as the engine answers again."""
        key = f"settle-worker {worker_id}"
        if not self._tasks.running(key):
            self._tasks.keep_going(
                Background.RECOVER_WORKERS, key, lambda: self._until_recovered(worker_id)
            )

    def _look_later(self, worker_id: UUID) -> None:
        """What an engine was asked for that did not answer it may do after all, when it goes on."""
        key = f"look-at-worker {worker_id}"
        if not self._tasks.running(key):
            self._tasks.keep_going(
                Background.RECOVER_WORKERS, key, lambda: self._until_looked_at(worker_id)
            )

    async def _until_looked_at(self, worker_id: UUID) -> None:
        back_off = BackOff(FIRST_WAIT_S, LONGEST_WAIT_S)
        while True:
            try:
                await self._engine.facts()
                await self(worker_id, only=set(WorkerState).difference(BUSY))
            except EngineUnavailable:
                await back_off.pause()
            except (NotFound, IllegalTransition):  # somebody else knows more
                return
            else:
                return

    async def delete(self, worker: Worker) -> None:
        """Remove a worker that is ``deleting``, its container and its checkpoints."""
        await self._end_what_the_engine_cannot(worker)
        await remove_containers(self._engine, worker.id)
        await self._places.forget(worker)
        await self._store.workers.remove(worker.id)

    async def _end_what_the_engine_cannot(self, worker: Worker) -> None:
        with contextlib.suppress(NotFound):
            pid = (await self._engine.inspect(worker.docker_id)).pid if worker.docker_id else 0
            if pid:
                await asyncio.to_thread(end_without_first_thread, pid)

    async def _until_recovered(self, worker_id: UUID) -> None:
        back_off = BackOff(FIRST_WAIT_S, LONGEST_WAIT_S)
        while True:
            try:
                with contextlib.suppress(EngineUnavailable):
                    await self._until_engine_is_done(worker_id)
                await self(worker_id)
            except EngineUnavailable:
                await back_off.pause()
            except NotFound:
                return
            else:
                return

    async def _until_engine_is_done(self, worker_id: UUID) -> None:
        worker = await self._store.workers.get(worker_id)
        if worker.docker_id is None or worker.state not in BUSY:
            return
        rows = await self._store.checkpoints.of_worker(worker_id)
        made = [row for row in rows if row.state is CheckpointState.CREATING]
        try:
            facts, found = await self._engine.facts(), await self._engine.inspect(worker.docker_id)
        except NotFound:  # settling finds that out, too, and records it
            return
        work = Work(
            facts,
            self._engine.socket,
            found.id,
            tuple(row.name for row in made if row.folder is None),
            found.pid,
            tuple(row.folder.parent for row in made if row.folder is not None),
        )
        await until_quiet(work, self._hangs_after_s)

    async def give_up(self, worker: Worker) -> None:
        """End what the engine is at work on with it, so that it answers for it again."""
        if worker.docker_id is None:
            return
        pid = await asyncio.to_thread(first_process, worker.docker_id)
        if not pid:
            with contextlib.suppress(NotFound, EngineUnavailable):
                pid = (await self._engine.inspect(worker.docker_id)).pid
        await end_work(worker.docker_id, pid)

    async def _after_dump(self, worker: Worker, found: ContainerFacts) -> None:
        checkpoint = await self._unfinished(worker)
        whole, running, exit_code = False, found.running, found.exit_code
        if checkpoint is not None:
            recovered = await recover(self._engine, found.id, checkpoint.name, checkpoint.folder)
            whole, running, exit_code = recovered.checkpoint, recovered.running, recovered.exit_code
            if whole and running and not checkpoint.left_running:
                # It went on after the dump, so the dump is no longer what it is.
                await self._delete(checkpoint, found.id)
                whole = False
            if whole:
                await self._keep(checkpoint, found)
            else:
                await self._store.checkpoints.remove(checkpoint.id)
        if running:
            await self._states.enter(worker.id, _S.RUNNING, told={"settled": True})
        elif whole and checkpoint is not None and worker.state is _S.PAUSING:
            await self._places.order_resume(found.id, checkpoint.folder)
            await self._states.enter(
                worker.id, _S.PAUSED, told={"settled": True}, paused_into=checkpoint.id
            )
        else:
            await self._places.order_resume(found.id, None)  # it may have been given already
            await self._states.enter(worker.id, _S.EXITED, exit_code=exit_code)
            await self._look_again(worker.id)

    async def _after_restore(self, worker: Worker, found: ContainerFacts) -> None:
        if found.running and await self._restored_from(worker, found) is not None:
            await self._states.enter(worker.id, _S.RUNNING, told={"settled": True})
            return
        if found.running:
            with contextlib.suppress(Conflict):  # it has ended since
                await self._engine.kill(found.id)
        else:
            await asyncio.to_thread(end_members, found.id)
        if found.upper_folder is not None:
            await asyncio.to_thread(forget_copy, found.upper_folder)
        await self._order_as_before(worker, found.id)
        back = _S.PAUSED if worker.paused_into else _S.EXITED
        await self._states.enter(worker.id, back, told={"settled": True})

    async def _while_stopped(self, worker: Worker, found: ContainerFacts) -> None:
        if not found.running:
            await self._forget_unfinished(worker)
            return
        restored = await self._restored_from(worker, found)
        # At once: one that was found resuming, and is no checkpoint's, would be ended.
        async with self._store.transaction():
            await self._states.record(worker.id, _S.RESUMING)
            now = await self._states.record(
                worker.id,
                _S.RUNNING,
                told={"settled": True, "checkpoint": None if restored is None else restored.name},
                paused_into=None,
                resume_at_start=False,
                exit_code=None,
                error=None,
            )
        await self._states.announce(now)

    async def _order_as_before(self, worker: Worker, docker_id: str) -> None:
        """The order that was given may have been for another checkpoint."""
        folder = None
        if worker.paused_into is not None:
            with contextlib.suppress(NotFound):
                folder = (await self._store.checkpoints.get(worker.paused_into)).folder
        await self._places.order_resume(docker_id, folder)

    async def _restored_from(self, worker: Worker, found: ContainerFacts) -> Checkpoint | None:
        for checkpoint in await self._store.checkpoints.of_worker(worker.id):
            try:
                dump = await dump_facts(self._engine, found.id, checkpoint.name, checkpoint.folder)
            except (CheckpointError, NotFound):
                continue
            if await asyncio.to_thread(compare, dump, found.pid) is Continuity.SAME:
                return checkpoint
        return None

    async def _ended(self, worker: Worker, found: ContainerFacts) -> None:
        await self._states.enter(
            worker.id,
            _S.EXITED,
            told={"exit_code": found.exit_code},
            exit_code=found.exit_code,
        )
        await self._look_again(worker.id)

    async def _look_again(self, worker_id: UUID) -> None:
        """A start of its container that was told before it was stored to have ended was taken for
        one of a worker that runs, and is not told again."""
        try:
            await self(worker_id, only=(_S.EXITED,))
        except EngineUnavailable:
            self._look_later(worker_id)
        except (NotFound, IllegalTransition):  # somebody else knows more
            return

    async def _gone(self, worker: Worker) -> None:
        error = ContainerError(
            f"the container of {worker.name} is gone",
            details="somebody removed it from the engine; a checkpoint is restored only into the "
            "container that it is of",
            resolution=f"remove the worker (`warmboot worker rm {worker.name}`) and recreate it",
        )
        log.error(error.brief, worker=str(worker.id))
        if worker.docker_id is not None:
            await self._places.order_resume(worker.docker_id, None)
        await self._states.enter(
            worker.id, _S.FAILED, told={"error": error.as_dict()}, error=error.as_dict()
        )

    async def _unfinished(self, worker: Worker) -> Checkpoint | None:
        for checkpoint in await self._store.checkpoints.of_worker(worker.id):
            if checkpoint.state is CheckpointState.CREATING:
                return checkpoint
        return None

    async def _forget_unfinished(self, worker: Worker) -> None:
        """Rows of checkpoints that were never begun, or whose removal was interrupted.

        Also the container of one that could not be created, if the engine was away then.
        """
        if worker.state is _S.FAILED and worker.docker_id is None:
            await remove_containers(self._engine, worker.id)
        for checkpoint in await self._store.checkpoints.of_worker(worker.id):
            if checkpoint.state in (CheckpointState.CREATING, CheckpointState.DELETED):
                if worker.docker_id is not None:
                    await self._delete(checkpoint, worker.docker_id)
                await self._store.checkpoints.remove(checkpoint.id)
        if worker.state is _S.CREATING and worker.docker_id is not None:
            rows = await self._store.checkpoints.of_worker(worker.id)
            await self._places.order_resume(worker.docker_id, None)  # an import gave it
            try:
                await discard_imports(
                    self._engine,
                    worker.docker_id,
                    {row.name for row in rows},
                    self._places.all_of(worker),
                )
            except NotFound:  # its container is gone
                return

    async def _delete(self, checkpoint: Checkpoint, docker_id: str) -> None:
        await delete_checkpoint(self._engine, docker_id, checkpoint.name, checkpoint.folder)

    async def _keep(self, checkpoint: Checkpoint, found: ContainerFacts) -> None:
        dump = await dump_facts(self._engine, found.id, checkpoint.name, checkpoint.folder)
        facts = await self._engine.remembered_facts()
        changes: dict[str, Any] = {
            "size_bytes": dump.size_bytes,
            "processes": len(dump.processes),
            "tcp_connections": dump.tcp_connections,
            "image_digest": found.image_digest,
            "versions": facts.versions(checkpoint.versions.criu),
        }
        await self._store.checkpoints.set_state(checkpoint.id, CheckpointState.READY, **changes)


async def remove_containers(engine: DockerEngine, worker_id: UUID) -> None:
    """Whatever has the worker's label, whether or not its id was recorded."""
    for container in await engine.labelled(f"{LABEL}={worker_id}"):
        try:
            await engine.remove(container)
        except ContainerError:  # it has missed the end of what it has killed for this
            with contextlib.suppress(NotFound):
                await inspect_when_stopped(engine, container)
            await engine.remove(container)

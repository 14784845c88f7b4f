"""Pause a worker, or make a checkpoint that leaves it running.

    accept (state and checkpoint row) ─▶ dump ─▶ record
                                          │ error, kill -9
                                          ▼
                           recover: what the engine says is true

A request is accepted before the work begins, so that the caller can be answered in between: a
worker that asks for its own pause must have its answer before it is dumped.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from warmboot.criu.activity import listening
from warmboot.criu.checkpoint import TOO_LATE, Dumped, checkpoint, look_before
from warmboot.criu.in_progress import HANGS_AFTER_S, Limits
from warmboot.criu.runtime.places import CheckpointPlaces
from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import ContainerFacts
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.workers.policies.restart_policies import RestartPolicies
from warmboot.manager.workers.recover_worker import RecoverWorker
from warmboot.manager.workers.worker_states import WorkerStates, refusal
from warmboot.manager.workers.worker_work import WorkerWork
from warmboot.model.checkpoint import (
    Checkpoint,
    CheckpointState,
    Versions,
    check_checkpoint_name,
)
from warmboot.model.errors import IllegalTransition
from warmboot.model.worker import LOOPBACK, ListenAddress, Worker, WorkerState
from warmboot.store import Store

_NOT_YET = Versions("", "", "", "")


class PauseWorker:
    def __init__(
        self,
        store: Store,
        engine: DockerEngine,
        events: EventLog,
        states: WorkerStates,
        recover: RecoverWorker,
        places: CheckpointPlaces,
        restart_policies: RestartPolicies,
        hangs_after_s: float = HANGS_AFTER_S,
    ) -> None:
        self._hangs_after_s = hangs_after_s
        self._store = store
        self._engine = engine
        self._states = states
        self._places = places
        self._restart_policies = restart_policies
        self._work = WorkerWork(
            store, events, recover, "pause", WorkerState.PAUSING, WorkerState.CHECKPOINTING
        )

    async def accept(
        self,
        worker: Worker,
        name: str | None,
        *,
        leave_running: bool,
        automatic: bool,
        resume_at_start: bool = False,
    ) -> Checkpoint:
        """Enter ``pausing`` (or ``checkpointing``) and store the checkpoint as ``creating``.

        The caller must call ``work`` next. With ``resume_at_start`` the next manager resumes the
        worker. ``Conflict`` if it is not running, ``NameTaken``, ``InvalidName``.
        """
        check_checkpoint_name(name or "automatic")
        participle = "checkpointed" if leave_running else "paused"
        if worker.state is not WorkerState.RUNNING:
            raise refusal(worker, participle)
        name = name or _timed_name("checkpoint" if leave_running else "pause")
        made = Checkpoint(
            id=uuid4(),
            worker_id=worker.id,
            name=name,
            state=CheckpointState.CREATING,
            created_at=datetime.now(UTC),
            versions=_NOT_YET,
            image_digest=worker.image_digest,
            left_running=leave_running,
            automatic=automatic,
            folder=self._places.of(worker, name),
        )
        state = WorkerState.CHECKPOINTING if leave_running else WorkerState.PAUSING
        try:
            async with self._store.transaction():
                await self._store.checkpoints.add(made)
                now = await self._states.record(worker.id, state, resume_at_start=resume_at_start)
        except IllegalTransition as error:
            raise await self._states.refusal_now(worker.id, participle) from error
        await self._states.announce(now)
        return made

    async def work(
        self, worker: Worker, made: Checkpoint, timeout_s: float | None = None
    ) -> Checkpoint:
        """Dump an accepted worker. After an error the worker is recovered, then it is raised.

        A dump that is not done within ``timeout_s`` is ended, and the worker runs on.
        """
        limits = Limits(self._hangs_after_s, timeout_s)
        async with self._work(worker, made):
            return await self._record(made, await self._dump(worker, made, limits))

    async def _dump(self, worker: Worker, made: Checkpoint, limits: Limits) -> Dumped:
        found = await look_before(self._engine, worker.docker_id or "", limits)
        if worker.spec.policy.wake_on:  # kept first: after a crash nobody could ask any more
            listens = _listens(worker, found)
            await self._store.workers.update(worker.id, listens=listens)
        if not made.left_running:
            async with limits.within(TOO_LATE):
                await self._restart_policies.take_off(worker, found)
        await self._places.prepare(worker)
        return await checkpoint(
            self._engine,
            found,
            made.name,
            into=made.folder,
            search_path=self._places.search_path,
            leave_running=made.left_running,
            until_stopped=False,
            limits=limits,
        )

    async def _record(self, made: Checkpoint, dumped: Dumped) -> Checkpoint:
        told = {
            "checkpoint": dumped.name,
            "size_bytes": dumped.size_bytes,
            "duration_s": round(dumped.duration_s, 3),
        }
        async with self._store.transaction():
            finished = await self._store.checkpoints.set_state(
                made.id,
                CheckpointState.READY,
                size_bytes=dumped.size_bytes,
                duration_s=dumped.duration_s,
                processes=dumped.processes,
                tcp_connections=dumped.tcp_connections,
                image_digest=dumped.image_digest,
                versions=dumped.versions,
            )
            if dumped.left_running:
                now = await self._states.record(
                    made.worker_id, WorkerState.RUNNING, told=told, error=None
                )
            else:
                now = await self._states.record(
                    made.worker_id,
                    WorkerState.PAUSED,
                    told=told,
                    paused_into=made.id,
                    paused_at=datetime.now(UTC),
                    error=None,
                )
        await self._states.announce(now)
        return finished


def _listens(worker: Worker, found: ContainerFacts) -> tuple[ListenAddress, ...]:
    """Where to listen for those who want to wake it."""
    wanted = worker.spec.policy.wake_on
    known = listening(found.pid) if found.pid else ()
    there = tuple(address for address in known if address.port in wanted)
    missing = set(wanted) - {address.port for address in there}
    return (*there, *(ListenAddress(LOOPBACK, port) for port in sorted(missing)))


def _timed_name(beginning: str) -> str:
    """Unique within a worker, and readable: ``pause-20260124-120000-123``."""
    now = datetime.now(UTC)
    return f"{beginning}-{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03}"

"""Changes of a worker's state: a guarded update in the store, an event, then actions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from warmboot.manager.core.event_log import EventLog
from warmboot.model.errors import Conflict
from warmboot.model.worker import Worker, WorkerState
from warmboot.store import Store

Follower = Callable[[Worker], Awaitable[None]]

_REMEDIES = {
    WorkerState.CREATING: "wait until it runs (`warmboot worker show {name}`)",
    WorkerState.RUNNING: "pause it first (`warmboot worker pause {name}`)",
    WorkerState.CHECKPOINTING: "wait until its checkpoint is made, then try again",
    WorkerState.PAUSING: "wait until it is paused, then try again",
    WorkerState.PAUSED: "resume it first (`warmboot worker resume {name}`)",
    WorkerState.RESUMING: "wait until it runs again, then try again",
    WorkerState.EXITED: "its process has ended: resume it from a checkpoint, or remove it",
    WorkerState.FAILED: "see why (`warmboot worker show {name}`); resume it from a checkpoint, or "
    "remove it",
    WorkerState.DELETING: "create another one",
}


class WorkerStates:
    """Followers are called after each change, in the order in which they were added."""

    def __init__(self, store: Store, events: EventLog) -> None:
        self._store = store
        self._events = events
        self._followers: list[Follower] = []

    def follow(self, follower: Follower) -> None:
        self._followers.append(follower)

    async def enter(
        self,
        worker_id: UUID,
        state: WorkerState,
        *,
        told: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Worker:
        """``IllegalTransition``, ``NotFound``. ``told`` goes into the event."""
        async with self._store.transaction():
            worker = await self.record(worker_id, state, told=told, **changes)
        await self.announce(worker)
        return worker

    async def record(
        self,
        worker_id: UUID,
        state: WorkerState,
        *,
        told: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Worker:
        """The part of ``enter`` for a larger transaction; ``announce`` it after that."""
        worker = await self._store.workers.set_state(worker_id, state, **changes)
        await self._events.emit(f"worker.{state}", worker_id, name=worker.name, **(told or {}))
        return worker

    async def announce(self, worker: Worker) -> None:
        """Let those who wait look, and the followers act, now that it is committed."""
        self._events.wake(worker.id)
        await self.tell_followers(worker)

    async def refusal_now(self, worker_id: UUID, participle: str) -> Conflict:
        """Why not, when somebody else was quicker."""
        return refusal(await self._store.workers.get(worker_id), participle)

    async def tell(self, worker: Worker, what: str) -> None:
        """An event about it that is no change of state."""
        await self._events.emit(f"worker.{what}", worker.id, name=worker.name)

    async def tell_followers(self, worker: Worker) -> None:
        for follower in self._followers:
            await follower(worker)


def refusal(worker: Worker, participle: str) -> Conflict:
    """Why a worker cannot be paused, resumed, … in the state in which it is."""
    return Conflict(
        f"{worker.name} is {worker.state}, so it cannot be {participle}",
        resolution=_REMEDIES[worker.state].format(name=worker.name),
    )

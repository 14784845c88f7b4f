"""A pause holds though the container has a restart policy (``docker update --restart always``).

    pause    the policy is kept, then taken off ─▶ dump
    running, exited again                       ─▶ the policy is given back, then forgotten

To an engine the end of a dumped process is a failure, after which it would start the container
again at once: its runtime would resume it, or without that it would start from the beginning. So
a paused worker has no policy, also for an engine that is restarted meanwhile. What somebody sets
while it is paused stays as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from uuid import UUID

from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import ContainerFacts
from warmboot.manager.core.background import Work
from warmboot.manager.core.tasks import Tasks
from warmboot.model.errors import NotFound
from warmboot.model.worker import Worker, WorkerState
from warmboot.store import Store

NO_RESTART = {"Name": "no"}
_AT_WORK = (WorkerState.RUNNING, WorkerState.EXITED)
"""The states in which an engine may start a worker's container again."""


class RestartPolicies:
    def __init__(self, store: Store, engine: DockerEngine, tasks: Tasks) -> None:
        self._store = store
        self._engine = engine
        self._tasks = tasks
        self._changing = asyncio.Lock()

    async def take_off(self, worker: Worker, found: ContainerFacts) -> None:
        """Keep its policy, and take it off; ``found`` is newer than ``worker``. Idempotent."""
        if not found.restarts and worker.restart_policy is None:
            return
        async with self._changing:  # it may just be given back
            found = await self._engine.inspect(found.id)
            if found.restarts:
                policy = dict(found.restart_policy)
                await self._store.workers.update(worker.id, restart_policy=policy)
                await self._engine.set_restart_policy(found.id, NO_RESTART)

    async def follow(self, worker: Worker) -> None:
        """Give it back as soon as the worker is not paused any more."""
        if worker.restart_policy is not None and worker.state in _AT_WORK:
            key = f"restart-policy {worker.id}"
            self._tasks.keep_going(Work.RECOVER_WORKERS, key, lambda: self._give_back(worker.id))

    async def _give_back(self, worker_id: UUID) -> None:
        async with self._changing:
            with contextlib.suppress(NotFound):  # the worker is removed, or its container
                worker = await self._store.workers.get(worker_id)
                policy = worker.restart_policy
                if policy is None or worker.state not in _AT_WORK:
                    return
                found = await self._engine.inspect(worker.docker_id or "")
                # Also if it seems never to have been taken off: an engine that did not answer then
                # may have that before it yet, and does this after it.
                if not found.restarts or dict(found.restart_policy) == dict(policy):
                    await self._engine.set_restart_policy(found.id, policy)
                await self._store.workers.update(worker_id, restart_policy=None)

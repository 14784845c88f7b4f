"""Recovers a worker whose engine does not answer, as far as that can be known without it.

    pausing, checkpointing   its process lives             ─▶ running
                             gone, the checkpoint is whole ─▶ paused
    resuming                 nothing runs                  ─▶ back to where it was

That goes for workers on the runtime of ours: runc knows the process, and the checkpoint is ours.
Anything else has to wait for the engine.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from warmboot.criu.checkpoint import finish
from warmboot.criu.images import DumpFacts
from warmboot.criu.in_progress import Work, until_quiet
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.places import CheckpointPlaces
from warmboot.criu.runtime.process import first_process
from warmboot.criu.runtime_work import end_members, runtimes_at_work, thaw
from warmboot.docker.engine import DockerEngine
from warmboot.manager.workers.worker_states import WorkerStates
from warmboot.model.checkpoint import Checkpoint, CheckpointState, Versions
from warmboot.model.errors import CheckpointError
from warmboot.model.worker import Worker, WorkerState
from warmboot.store import Store

_TOLD = {"settled": True}


class RecoverAlone:
    def __init__(
        self,
        store: Store,
        engine: DockerEngine,
        states: WorkerStates,
        places: CheckpointPlaces,
        hangs_after_s: float,
    ) -> None:
        self._store = store
        self._engine = engine
        self._states = states
        self._places = places
        self._hangs_after_s = hangs_after_s

    async def __call__(self, worker: Worker) -> bool:
        """Whether it is settled. ``worker`` is pausing, checkpointing or resuming."""
        docker_id, folder = worker.docker_id, self._places.all_of(worker)
        if docker_id is None or folder is None:
            return False
        await self._until_quiet(docker_id, folder)
        if worker.state is WorkerState.RESUMING:
            return await self._after_restore(worker, docker_id)
        return await self._after_dump(worker, docker_id)

    async def _until_quiet(self, docker_id: str, folder: Path) -> None:
        pid = await asyncio.to_thread(first_process, docker_id)
        work = Work(None, self._engine.socket, docker_id, (), pid, (folder,))
        await until_quiet(work, self._hangs_after_s)

    async def _after_dump(self, worker: Worker, docker_id: str) -> bool:
        rows = await self._store.checkpoints.of_worker(worker.id)
        made = next((row for row in rows if row.state is CheckpointState.CREATING), None)
        if made is None or made.folder is None:
            return False
        pid = await asyncio.to_thread(first_process, docker_id)
        if pid:
            await asyncio.to_thread(thaw, docker_id, pid)
        dump = None
        if made.left_running or not pid:
            dump = await _whole(made.folder)
        if not pid and dump is None:
            return False  # only the engine knows how it has ended
        if dump is None:
            await asyncio.to_thread(CheckpointFolder(made.folder).remove)
            await self._store.checkpoints.remove(made.id)
        else:
            await self._keep(made, dump)
        if pid:
            await self._states.enter(worker.id, WorkerState.RUNNING, told=_TOLD)
        elif worker.state is WorkerState.PAUSING:
            await self._places.order_resume(docker_id, made.folder)
            await self._states.enter(worker.id, WorkerState.PAUSED, told=_TOLD, paused_into=made.id)
        else:
            return False
        return True

    async def _after_restore(self, worker: Worker, docker_id: str) -> bool:
        if await asyncio.to_thread(first_process, docker_id):
            return False  # the engine may know it as running, or kill it when it is back
        if await asyncio.to_thread(runtimes_at_work, docker_id):
            return False
        await asyncio.to_thread(end_members, docker_id)
        back = WorkerState.PAUSED if worker.paused_into else WorkerState.EXITED
        await self._states.enter(worker.id, back, told=_TOLD)
        return True

    async def _keep(self, made: Checkpoint, dump: DumpFacts) -> None:
        here = os.uname()
        await self._store.checkpoints.set_state(
            made.id,
            CheckpointState.READY,
            size_bytes=dump.size_bytes,
            processes=len(dump.processes),
            tcp_connections=dump.tcp_connections,
            versions=Versions("", made.versions.criu, here.release, here.machine),
        )


async def _whole(folder: Path) -> DumpFacts | None:
    try:
        return await finish(CheckpointFolder(folder))
    except CheckpointError:
        return None

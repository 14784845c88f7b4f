"""Where the checkpoints of workers are kept that run on the runtime of ours."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from warmboot.criu.runtime.folders import CheckpointFolder, clear
from warmboot.criu.runtime.orders import forget, withdraw
from warmboot.criu.runtime.resume import give_order
from warmboot.criu.runtime.stored import StoredCheckpoints
from warmboot.model.worker import Worker


@dataclass(frozen=True, slots=True)
class CheckpointPlaces:
    """Below ``root``. ``search_path`` is where CRIU is, for dumps and restores alike."""

    root: Path
    search_path: str
    stored: StoredCheckpoints | None = None

    def of(self, worker: Worker, name: str) -> Path | None:
        """The folder for a checkpoint that is to be made; ``None``: the engine keeps it."""
        place = self.all_of(worker)
        return None if place is None else place / name

    def all_of(self, worker: Worker) -> Path | None:
        """The folder of all that are made of it from now on."""
        return self.root / str(worker.id) if worker.runtime else None

    async def prepare(self, worker: Worker) -> None:
        """Have a folder of the worker's, marked as this manager's, if one will be needed.

        What cannot be made here is told by who makes the checkpoint.
        """
        if self.stored is not None and worker.runtime:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.stored.mark, worker.id)

    async def order_resume(self, docker_id: str, folder: Path | None) -> None:
        """Have the container's next start be a restore from ``folder``; ``None``: a new start."""
        if folder is None:
            await asyncio.to_thread(withdraw, docker_id)
        else:
            await give_order(docker_id, CheckpointFolder(folder), self.search_path)

    async def forget(self, worker: Worker) -> None:
        """Remove all that is kept of a worker whose container is gone. Idempotent."""
        await asyncio.to_thread(clear, self.root / str(worker.id))
        if worker.docker_id:
            await asyncio.to_thread(forget, worker.docker_id)

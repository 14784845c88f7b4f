"""The manager's interface for workers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from warmboot.model.checkpoint import AS_IT_WAS, ChangedFile, Checkpoint, ResumeOptions
from warmboot.model.sessions import LogChunk
from warmboot.model.worker import Worker, WorkerSpec


class WorkerUntil(StrEnum):
    """What a ``wait`` for a worker waits for; all end early when it has failed or is going.

    ``settled``: nothing is under way with it.
    """

    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class Exported:
    """A checkpoint's archive, made while ``chunks`` are read; what hinders it is raised there."""

    file_name: str
    chunks: AsyncGenerator[bytes, None]


@dataclass(frozen=True, slots=True)
class Resumed:
    """A worker that runs again, and files in its mounts that have changed since."""

    worker: Worker
    changed_files: Sequence[ChangedFile] = ()


class Workers(Protocol):
    """Containers on the host's own engine; what needs it raises ``EngineUnavailable`` without.

    ``ref`` is an id, the unique beginning of one, or a name. A pause or resume that fails raises
    why, and leaves worker and checkpoints as they were; one that is not done within ``timeout_s``
    fails so (``CheckpointTimeout``).
    """

    async def create(self, spec: WorkerSpec) -> UUID: ...

    async def list(self) -> Sequence[Worker]: ...

    async def get(self, ref: str) -> Worker: ...

    async def wait(self, ref: str, until: WorkerUntil, timeout_s: float) -> Worker: ...

    async def delete(self, ref: str, *, force: bool = False) -> None:
        """Remove it with its checkpoints; a running one only by ``force``."""
        ...

    def logs(
        self, ref: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[LogChunk]: ...

    async def report(self, ref: str, kind: str, data: Mapping[str, Any]) -> None:
        """What a worker says of itself becomes an event; also a sign of life."""
        ...

    async def pause(
        self, ref: str, name: str | None = None, timeout_s: float | None = None
    ) -> Worker:
        """Pause it into a checkpoint; returns when it is paused."""
        ...

    async def ask_pause(
        self, ref: str, name: str | None = None, timeout_s: float | None = None
    ) -> tuple[Worker, Callable[[], None]]:
        """Accept a pause; the second result begins it and must be called."""
        ...

    async def resume(
        self,
        ref: str,
        checkpoint: str | None = None,
        options: ResumeOptions = AS_IT_WAS,
        timeout_s: float | None = None,
    ) -> Resumed:
        """Resume it from the checkpoint it was paused into, the newest, or a named one."""
        ...

    async def wake(self, ref: str) -> Worker:
        """Make it run: resume it if it is paused or being paused. Idempotent."""
        ...

    async def checkpoints(self, ref: str) -> Sequence[Checkpoint]: ...

    async def checkpoint(self, ref: str, name: str) -> Checkpoint: ...

    async def create_checkpoint(
        self,
        ref: str,
        name: str | None = None,
        *,
        leave_running: bool = True,
        timeout_s: float | None = None,
    ) -> Checkpoint: ...

    async def delete_checkpoint(self, ref: str, name: str) -> None: ...

    async def export_checkpoint(self, ref: str, name: str) -> Exported: ...

    async def import_checkpoint(
        self, ref: str, name: str, chunks: AsyncIterator[bytes], size_bytes: int | None = None
    ) -> Checkpoint:
        """Into a worker that never ran; the same archive again changes nothing."""
        ...

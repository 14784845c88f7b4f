"""Workers in memory: the same states and errors, no engine. Pausing and resuming take no time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID, uuid4

from tests.support.fake_events import now

from warmboot.manager.protocols import Exported, Resumed, WorkerUntil
from warmboot.manager.workers.worker_states import refusal
from warmboot.model.checkpoint import (
    AS_IT_WAS,
    ChangedFile,
    Checkpoint,
    CheckpointState,
    ResumeOptions,
    Versions,
)
from warmboot.model.errors import (
    CheckpointError,
    CheckpointTimeout,
    Conflict,
    InUse,
    InvalidRequest,
    NameTaken,
    NotFound,
    NotSupported,
)
from warmboot.model.sessions import LogChunk, Stream
from warmboot.model.worker import WORKER_TRANSITIONS, Worker, WorkerSpec
from warmboot.model.worker import WorkerState as S

SLOW_S = 60.0
VERSIONS = Versions("20.10.24", "4.2.1", "6.18.0", "x86_64")


class Tell(Protocol):
    def __call__(self, kind: str, subject: object, **data: object) -> None: ...


class FakeWorkers:
    """``tell`` emits an event.

    A worker whose command is ``undumpable`` cannot be dumped; ``slow`` takes a minute for each
    pause, checkpoint and resume.
    """

    def __init__(self, tell: Tell) -> None:
        self.rows: dict[UUID, Worker] = {}
        self.kept: dict[UUID, list[Checkpoint]] = {}
        self.changed_files: Sequence[ChangedFile] = ()
        self._tell = tell

    async def create(self, spec: WorkerSpec) -> UUID:
        if spec.tty or spec.auto_remove or spec.network != "host":
            raise NotSupported(
                f"{spec.name} could not be resumed after a pause",
                details="it is not known that this engine restores it",
                resolution="run the worker with network 'host', without a TTY or auto-remove",
            )
        if any(row.name == spec.name for row in self.rows.values()):
            raise NameTaken(f"there is a worker named {spec.name!r} already")
        worker = Worker(uuid4(), spec, S.CREATING, now(), "c0ffee" * 10, "sha256:" + "ab" * 32)
        self.rows[worker.id], self.kept[worker.id] = worker, []
        if spec.start:
            self._enter(worker, S.RUNNING)
        return worker.id

    def _enter(self, worker: Worker, state: S, **changes: Any) -> Worker:
        WORKER_TRANSITIONS.check(worker.state, state)
        changed = replace(worker, state=state, **changes)
        self.rows[worker.id] = changed
        self._tell(f"worker.{state}", worker.id, name=worker.name)
        return changed

    async def list(self) -> Sequence[Worker]:
        return list(self.rows.values())

    async def get(self, ref: str) -> Worker:
        found = [w for w in self.rows.values() if ref == w.name or str(w.id).startswith(ref)]
        if not found:
            raise NotFound(f"there is no worker {ref}", resolution="see `warmboot worker ls`")
        if len(found) > 1:
            raise Conflict(f"several workers' ids begin with {ref}")
        return found[0]

    async def wait(self, ref: str, until: WorkerUntil, timeout_s: float) -> Worker:
        return await self.get(ref)

    async def delete(self, ref: str, *, force: bool = False) -> None:
        worker = await self.get(ref)
        if worker.state is S.RUNNING and not force:
            raise InUse(f"{worker.name} is running", resolution="pause it first, or use force")
        del self.rows[worker.id]

    async def logs(
        self, ref: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[LogChunk]:
        worker = await self.get(ref)
        lines = [f"{worker.name} counts {number}\n" for number in (1, 2, 3)]
        for line in lines if tail is None else lines[len(lines) - min(tail, 3) :]:
            yield LogChunk(Stream.STDOUT, line.encode())

    async def report(self, ref: str, kind: str, data: Mapping[str, Any]) -> None:
        worker = await self.get(ref)
        self._tell("worker.reported", worker.id, report=kind, data=dict(data))

    async def pause(
        self, ref: str, name: str | None = None, timeout_s: float | None = None
    ) -> Worker:
        await self.create_checkpoint(ref, name, leave_running=False, timeout_s=timeout_s)
        return await self.get(ref)

    async def ask_pause(
        self, ref: str, name: str | None = None, timeout_s: float | None = None
    ) -> tuple[Worker, Callable[[], None]]:
        worker = await self.get(ref)
        if worker.state is not S.RUNNING:
            raise refusal(worker, "paused")
        pausing = self._enter(worker, S.PAUSING)
        made = self._made(worker, name or "asked", left_running=False)
        return pausing, lambda: self._finish(pausing, made)

    def _finish(self, worker: Worker, made: Checkpoint) -> None:
        self._enter(worker, S.PAUSED, paused_into=made.id, paused_at=now())

    def _made(self, worker: Worker, name: str, *, left_running: bool) -> Checkpoint:
        if any(one.name == name for one in self.kept[worker.id]):
            raise NameTaken(f"the worker has a checkpoint named {name!r} already")
        made = Checkpoint(
            id=uuid4(),
            worker_id=worker.id,
            name=name,
            state=CheckpointState.READY,
            created_at=now(),
            versions=VERSIONS,
            image_digest=worker.image_digest,
            size_bytes=3_000_000,
            duration_s=0.4,
            processes=1,
            left_running=left_running,
        )
        self.kept[worker.id].insert(0, made)
        return made

    async def resume(
        self,
        ref: str,
        checkpoint: str | None = None,
        options: ResumeOptions = AS_IT_WAS,
        timeout_s: float | None = None,
    ) -> Resumed:
        worker = await self.get(ref)
        if not WORKER_TRANSITIONS.allows(worker.state, S.RESUMING):
            raise refusal(worker, "resumed")
        if checkpoint is not None:
            await self.checkpoint(ref, checkpoint)
        _refuse_slow(worker, timeout_s)
        resuming = self._enter(worker, S.RESUMING)
        running = self._enter(resuming, S.RUNNING, paused_into=None, resumed_at=now())
        return Resumed(running, self.changed_files)

    async def wake(self, ref: str) -> Worker:
        worker = await self.get(ref)
        return worker if worker.state is S.RUNNING else (await self.resume(ref)).worker

    async def checkpoints(self, ref: str) -> Sequence[Checkpoint]:
        return self.kept[(await self.get(ref)).id]

    async def checkpoint(self, ref: str, name: str) -> Checkpoint:
        for one in await self.checkpoints(ref):
            if one.name == name:
                return one
        raise NotFound(f"there is no checkpoint {name!r}", resolution="list them")

    async def create_checkpoint(
        self,
        ref: str,
        name: str | None = None,
        *,
        leave_running: bool = True,
        timeout_s: float | None = None,
    ) -> Checkpoint:
        worker = await self.get(ref)
        if worker.state is not S.RUNNING:
            raise refusal(worker, "checkpointed" if leave_running else "paused")
        if worker.spec.command == ("undumpable",):
            raise CheckpointError(
                f"{worker.name} could not be paused; it runs on",
                details="Error (criu/files-reg.c:1816): Can't dump ghost file",
                resolution="see CRIU's lines above for what it cannot dump",
            )
        _refuse_slow(worker, timeout_s)
        count = len(self.kept[worker.id]) + 1
        made = self._made(worker, name or f"pause-{count}", left_running=leave_running)
        if not leave_running:
            self._finish(self._enter(worker, S.PAUSING), made)
        return made

    async def delete_checkpoint(self, ref: str, name: str) -> None:
        worker, found = await self.get(ref), await self.checkpoint(ref, name)
        if worker.paused_into == found.id:
            raise InUse(f"{worker.name} is paused in the checkpoint {name}")
        self.kept[worker.id].remove(found)

    async def export_checkpoint(self, ref: str, name: str) -> Exported:
        worker = await self.get(ref)
        content = f"the archive of {(await self.checkpoint(ref, name)).name}".encode()

        async def chunks() -> AsyncGenerator[bytes, None]:
            yield content

        return Exported(f"{worker.name}-{name}.tar.zst", chunks())

    async def import_checkpoint(
        self, ref: str, name: str, chunks: AsyncIterator[bytes], size_bytes: int | None = None
    ) -> Checkpoint:
        worker = await self.get(ref)
        if worker.state is not S.CREATING:
            raise refusal(worker, "given a checkpoint from outside")
        content = b"".join([chunk async for chunk in chunks])
        if not content.startswith(b"the archive of "):
            raise InvalidRequest("this is no archive of a checkpoint", details="it is not zstd")
        made = self._made(worker, name, left_running=False)
        self._finish(worker, made)
        return made


def _refuse_slow(worker: Worker, timeout_s: float | None) -> None:
    if worker.spec.command == ("slow",) and timeout_s is not None and timeout_s < SLOW_S:
        raise CheckpointTimeout(
            f"{worker.name} was not done",
            details=f"it was not done within the {timeout_s:g} s that the request allows",
            resolution="give it more time",
        )

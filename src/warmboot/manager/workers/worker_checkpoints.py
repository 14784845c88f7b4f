"""Checkpoints of workers: listed, deleted, exported as archives and imported.

Archives are made as they are sent, and unpacked as they come: none is on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast
from uuid import UUID, uuid5

from warmboot.criu.binary import criu_version, find_criu
from warmboot.criu.checkpoint import delete_checkpoint
from warmboot.criu.runtime.cold import ColdCheckpoints
from warmboot.criu.runtime.places import CheckpointPlaces
from warmboot.docker.engine import DockerEngine
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.uploads import Uploads
from warmboot.manager.garbage.checkpoint_garbage import CheckpointGarbage, CheckpointsInUse
from warmboot.manager.protocols import Exported
from warmboot.manager.workers.worker_states import WorkerStates, refusal
from warmboot.model.checkpoint import (
    ArchiveManifest,
    Checkpoint,
    CheckpointState,
    check_checkpoint_name,
    outdated,
)
from warmboot.model.errors import Conflict, InUse, NotFound, WarmbootError
from warmboot.model.worker import LOOPBACK, ListenAddress, Worker, WorkerState
from warmboot.store import Store
from warmboot.system.on_failure import on_failure
from warmboot.system.usage import allocated_below

RETENTION_DELAY_S = 1.0


class WorkerCheckpoints:
    def __init__(
        self,
        store: Store,
        engine: DockerEngine,
        events: EventLog,
        states: WorkerStates,
        places: CheckpointPlaces,
        uploads: Uploads,
        cold: ColdCheckpoints,
        in_use: CheckpointsInUse,
        garbage: CheckpointGarbage,
    ) -> None:
        self._store = store
        self._engine = engine
        self._events = events
        self._states = states
        self._places = places
        self._uploads = uploads
        self._cold = cold
        self._in_use = in_use
        self._garbage = garbage
        self._importing: set[UUID] = set()

    async def list(self, worker: Worker) -> Sequence[Checkpoint]:
        return await self._store.checkpoints.of_worker(worker.id, readable=True)

    async def get(self, worker: Worker, name: str) -> Checkpoint:
        return await self._store.checkpoints.named(worker.id, name)

    async def delete(self, worker: Worker, name: str) -> None:
        """``InUse`` for the one that the worker is kept in, ``Conflict`` while it is being made."""
        found = await self.get(worker, name)
        if found.id == worker.paused_into and worker.state is WorkerState.PAUSED:
            raise InUse(
                f"{worker.name} is paused in the checkpoint {name}",
                resolution=f"resume it first, or remove the worker (`warmboot worker rm "
                f"{worker.name}`)",
            )
        if found.id in self._in_use:
            raise InUse(
                f"the checkpoint {name} of {worker.name} is being exported",
                resolution="try again when that is done",
            )
        if worker.state is WorkerState.RESUMING or found.state is CheckpointState.CREATING:
            raise Conflict(
                f"the checkpoint {name} of {worker.name} is in use",
                details=f"the checkpoint is {found.state}, the worker {worker.state}",
                resolution="try again when that is done",
            )
        await self._remove(worker, found)

    async def apply_retention(self, worker: Worker) -> None:
        """Delete the automatic checkpoints that are more than the policy keeps.

        A moment later: whoever waits for the one that was just made shall not wait for this.
        """
        await asyncio.sleep(RETENTION_DELAY_S)
        try:
            now = await self._store.workers.get(worker.id)
        except NotFound:  # removed meanwhile, with its checkpoints
            return
        if now.state is WorkerState.RESUMING:
            return
        kept = await self._store.checkpoints.of_worker(worker.id)
        for checkpoint in outdated(kept, now.spec.policy.keep_checkpoints):
            if checkpoint.id != now.paused_into and checkpoint.id not in self._in_use:
                await self._remove(now, checkpoint)
        await self._measure(worker)
        await self._garbage.keep_budget()

    async def _measure(self, worker: Worker) -> None:
        for one in await self._store.checkpoints.of_worker(worker.id):
            if one.state is CheckpointState.READY and one.folder and one.stored_bytes is None:
                stored_bytes = await asyncio.to_thread(allocated_below, one.folder)
                with contextlib.suppress(NotFound):
                    await self._store.checkpoints.update(one.id, stored_bytes=stored_bytes)

    async def export(self, worker: Worker, name: str) -> Exported:
        """``Conflict`` while the worker runs; the rest is told by the archive's first chunk.

        What hinders it later is an event, for whoever reads sees only that it breaks off.
        """
        found = await self.get(worker, name)
        if worker.state in (WorkerState.RUNNING, WorkerState.RESUMING, WorkerState.CHECKPOINTING):
            raise Conflict(
                f"{worker.name} is {worker.state}, so its files may have changed since the "
                "checkpoint",
                resolution=f"pause it (`warmboot worker pause {worker.name}`), then export that "
                "checkpoint",
            )
        return Exported(f"{worker.name}-{name}.tar.zst", self._archive(worker, found))

    async def _archive(self, worker: Worker, found: Checkpoint) -> AsyncGenerator[bytes, None]:
        from warmboot.criu.archives.archive import export_checkpoint

        begun = False
        try:
            async with (
                self._held(found),
                aclosing(
                    export_checkpoint(
                        self._engine,
                        worker.docker_id or "",
                        found.name,
                        versions=found.versions,
                        created_at=found.created_at,
                        into=found.folder,
                    )
                ) as chunks,
            ):
                async for chunk in chunks:
                    begun = True
                    yield chunk
        except WarmbootError as error:
            if begun:
                await self._events.emit(
                    "worker.export-failed",
                    worker.id,
                    name=worker.name,
                    checkpoint=found.name,
                    error=error.as_dict(),
                )
            raise

    @contextlib.asynccontextmanager
    async def _held(self, checkpoint: Checkpoint) -> AsyncIterator[None]:
        """It is not removed while the body runs, and plain."""
        with self._in_use.held(checkpoint.id):
            if checkpoint.folder is None or not await asyncio.to_thread(checkpoint.folder.is_dir):
                yield
                return
            async with self._cold.held_plain(checkpoint.folder):
                yield

    async def bring_in(
        self, worker: Worker, name: str, chunks: AsyncIterator[bytes], size_bytes: int | None
    ) -> Checkpoint:
        """Make an uploaded archive the checkpoint ``name`` of a worker that never ran.

        The worker is ``paused`` in it afterwards. The same archive again changes nothing.
        """
        from warmboot.criu.archives.archive import import_checkpoint
        from warmboot.criu.archives.arriving import arriving

        check_checkpoint_name(name)
        if worker.state is not WorkerState.CREATING or worker.docker_id is None:
            return await self._brought_in_before(worker, name, chunks)
        with self._alone(worker):
            into = self._places.of(worker, name)
            await self._places.prepare(worker)
            criu = find_criu(self._places.search_path)
            place = into or Path(str(worker.id), name)  # only its name counts
            async with arriving(self._uploads.let_in(place, chunks, size_bytes)) as source:
                manifest = await import_checkpoint(
                    self._engine,
                    worker.docker_id,
                    name,
                    cast(IO[bytes], source),
                    criu=await criu_version(criu) if criu else "",
                    into=into,
                )
            made = _imported(worker, name, source.hexdigest(), manifest, into)
            await self._record_import(worker, worker.docker_id, made)
        return made

    async def _brought_in_before(
        self, worker: Worker, name: str, chunks: AsyncIterator[bytes]
    ) -> Checkpoint:
        """The checkpoint that this same archive has become, or a refusal."""
        refused = refusal(worker, "given a checkpoint from outside")
        try:
            known = await self._store.checkpoints.named(worker.id, name)
        except NotFound:
            raise refused from None
        digest = hashlib.sha256()
        async for chunk in chunks:
            digest.update(chunk)
        if known.id != _imported_id(worker, name, digest.hexdigest()):
            raise refused
        return known

    @contextlib.contextmanager
    def _alone(self, worker: Worker) -> Iterator[None]:
        if worker.id in self._importing:
            raise Conflict(
                f"an archive is just being imported into {worker.name}",
                resolution="wait until that is done, or has failed",
            )
        self._importing.add(worker.id)
        try:
            yield
        finally:
            self._importing.discard(worker.id)

    async def _record_import(self, worker: Worker, docker_id: str, made: Checkpoint) -> None:
        """Checkpoint and worker at once; or what was brought in is removed again."""
        listens = tuple(ListenAddress(LOOPBACK, port) for port in worker.spec.policy.wake_on)

        async def take_back() -> None:
            if made.folder is not None:
                await self._places.order_resume(docker_id, None)
            await delete_checkpoint(self._engine, docker_id, made.name, made.folder)

        async with on_failure(take_back):
            if made.folder is not None:
                await self._places.order_resume(docker_id, made.folder)
            async with self._store.transaction():
                await self._store.checkpoints.add(made)
                now = await self._states.record(
                    worker.id,
                    WorkerState.PAUSED,
                    told={"checkpoint": made.name, "imported": True},
                    paused_into=made.id,
                    paused_at=datetime.now(UTC),
                    listens=listens,
                )
        await self._states.announce(now)

    async def _remove(self, worker: Worker, checkpoint: Checkpoint) -> None:
        """First the row says so, so that a crash in between leaves nothing that looks usable."""
        await self._store.checkpoints.set_state(checkpoint.id, CheckpointState.DELETED)
        if worker.docker_id is not None:
            await delete_checkpoint(
                self._engine, worker.docker_id, checkpoint.name, checkpoint.folder
            )
        await self._store.checkpoints.remove(checkpoint.id)
        await self._events.emit(
            "worker.checkpoint-deleted", worker.id, name=worker.name, checkpoint=checkpoint.name
        )


def _imported_id(worker: Worker, name: str, digest: str) -> UUID:
    return uuid5(worker.id, f"{name} {digest}")


def _imported(
    worker: Worker, name: str, digest: str, manifest: ArchiveManifest, folder: Path | None
) -> Checkpoint:
    return Checkpoint(
        id=_imported_id(worker, name, digest),
        worker_id=worker.id,
        name=name,
        state=CheckpointState.READY,
        created_at=datetime.now(UTC),
        versions=manifest.versions,
        image_digest=manifest.image_digest,
        size_bytes=sum(one.size_bytes for one in manifest.files.values()),
        processes=manifest.processes,
        tcp_connections=manifest.tcp_connections,
        folder=folder,
    )

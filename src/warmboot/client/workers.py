"""The client's methods for workers and their checkpoints (``/v1/workers``)."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from warmboot.client.decode import all_items, item
from warmboot.client.nouns import file_chunks, file_size
from warmboot.client.problems import ManagerUnreachable
from warmboot.client.resource import Resource, given
from warmboot.client.transport import segment
from warmboot.client.worker_results import Checkpoint, Resumed, Worker
from warmboot.model.errors import DiskFull, InvalidRequest

WORK_TIMEOUT_S = 1800.0
"""A pause or resume of gigabytes takes its time."""

AFTER_TIMEOUT_S = 120.0
"""Until the manager says what is true after one that it has ended."""

Progress = Callable[[int], None]


class Workers(Resource[Worker]):
    """Workers and their checkpoints; ``ref`` is a name, an id, or the beginning of an id."""

    TYPE, WHAT = Worker, "worker"

    def _checkpoint(self, ref: str, name: str, *what: str) -> str:
        return self._path(ref, "checkpoints", segment(name, "checkpoint"), *what)

    async def create(
        self,
        image: str,
        command: Sequence[str] | None = None,
        *,
        name: str | None = None,
        entrypoint: Sequence[str] | None = None,
        environment: Mapping[str, str | None] | None = None,
        mounts: Sequence[Mapping[str, Any]] | None = None,
        network: str | None = None,
        labels: Mapping[str, str] | None = None,
        policy: Mapping[str, Any] | None = None,
        tty: bool | None = None,
        auto_remove: bool | None = None,
        start: bool | None = None,
    ) -> str:
        """Create a worker, and start it unless ``start=False``; returns its id.

        What is not given is the API's default. ``mounts``: ``[{"source": "/data", "target":
        "/data"}]``, of the manager's machine. ``policy``: as in POST /v1/workers.
        """
        body = given(
            image=image,
            command=command,
            name=name,
            entrypoint=entrypoint,
            environment=environment,
            mounts=mounts,
            network=network,
            labels=labels,
            policy=policy,
            tty=tty,
            auto_remove=auto_remove,
            start=start,
        )
        return str((await self._link.post("/v1/workers", body))["id"])

    async def wait(
        self, ref: str, until: str = "settled", timeout_s: float | None = None
    ) -> Worker:
        """The worker when it is so, has failed, or the time (``None``: no end) is over."""
        return await self._until(ref, until, lambda one: _holds(one, until), timeout_s)

    async def logs(
        self, ref: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The worker's output, piece by piece."""
        params: dict[str, Any] = {"follow": "true"} if follow else {}
        if tail is not None:
            params["tail"] = tail
        async with self._link.stream(self._path(ref, "logs"), params, {}) as response:
            async for chunk in response.aiter_raw():
                yield chunk

    async def pause(
        self,
        ref: str,
        checkpoint: str | None = None,
        *,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> Worker:
        """Pause it; returns when it is paused, or without ``wait`` at once.

        A pause that takes longer than ``timeout_s`` is ended, and the worker runs on.
        """
        body: dict[str, Any] = {"wait": wait, **_limit(timeout_s)}
        if checkpoint is not None:
            body["checkpoint"] = checkpoint
        return item(Worker, await self._begin(self._path(ref, "pause"), body, timeout_s))

    async def resume(
        self,
        ref: str,
        checkpoint: str | None = None,
        *,
        keep_files: bool = False,
        close_connections: bool = False,
        timeout_s: float | None = None,
    ) -> Resumed:
        """Resume it; returns when it has run again, with what has changed in its mounts.

        A resume that takes longer than ``timeout_s`` is ended, and the worker is still paused.
        """
        body: dict[str, Any] = {"checkpoint": checkpoint} if checkpoint else {}
        body |= _limit(timeout_s)
        if keep_files:
            body["keep_files"] = True
        if close_connections:
            body["close_connections"] = True
        return item(Resumed, await self._begin(self._path(ref, "resume"), body, timeout_s))

    async def wake(self, ref: str) -> Worker:
        """Make the worker run, whether it is paused or not, and return when it runs."""
        return item(Worker, await self._begin(self._path(ref, "wake"), None))

    async def report(self, ref: str, kind: str, data: Mapping[str, Any]) -> None:
        """Report something as the worker itself: it becomes an event."""
        await self._link.post(self._path(ref, "events"), {"kind": kind, "data": dict(data)})

    async def _begin(
        self, path: str, body: Mapping[str, Any] | None, timeout_s: float | None = None
    ) -> Any:
        waits_s = max(WORK_TIMEOUT_S, (timeout_s or 0.0) + AFTER_TIMEOUT_S)
        return await self._link.post(path, body, timeout=waits_s)

    # -- checkpoints ---------------------------------------------------------------------------

    async def checkpoints(self, ref: str) -> builtins.list[Checkpoint]:
        """Its checkpoints, newest first."""
        return [checkpoint async for checkpoint in self.iterate_checkpoints(ref)]

    def iterate_checkpoints(self, ref: str) -> AsyncIterator[Checkpoint]:
        """As ``checkpoints``, newest first; the next part is asked for when it is needed."""
        return all_items(Checkpoint, self._link.get, self._path(ref, "checkpoints"))

    async def checkpoint(self, ref: str, name: str) -> Checkpoint:
        """The checkpoint of this name. ``NotFound``."""
        return item(Checkpoint, await self._link.get(self._checkpoint(ref, name)))

    async def create_checkpoint(
        self,
        ref: str,
        name: str | None = None,
        *,
        leave_running: bool = True,
        timeout_s: float | None = None,
    ) -> Checkpoint:
        """Make one; what takes longer than ``timeout_s`` is ended, and the worker runs on."""
        body: dict[str, Any] = {"leave_running": leave_running, **_limit(timeout_s)}
        if name is not None:
            body["name"] = name
        return item(Checkpoint, await self._begin(self._path(ref, "checkpoints"), body, timeout_s))

    async def delete_checkpoint(self, ref: str, name: str) -> None:
        """Delete it. ``InUse`` if the worker is paused into it."""
        await self._link.delete(self._checkpoint(ref, name))

    async def export_checkpoint(
        self, ref: str, name: str, destination: Path, progress: Progress | None = None
    ) -> None:
        """Write the archive to ``destination``, which is there only when it is whole.

        ``DiskFull`` when it cannot be written there.
        """
        if not destination.name:
            raise InvalidRequest(
                f"{destination} is a folder", resolution="name the file that is to be written"
            )
        partial = destination.with_name(f".{destination.name}.{os.getpid()}")
        path, received = self._checkpoint(ref, name, "export"), 0
        try:
            async with self._link.stream(path, {}, {}) as response:
                with await asyncio.to_thread(partial.open, "wb") as file:
                    async for chunk in response.aiter_raw():
                        await asyncio.to_thread(file.write, chunk)
                        received += len(chunk)
                        if progress is not None:
                            progress(received)
            await asyncio.to_thread(partial.replace, destination)
        except ManagerUnreachable as error:
            if not received:
                raise
            raise ManagerUnreachable(
                "the export broke off",
                details=error.details,
                resolution="if the manager runs, `warmboot events` says why (worker.export-failed)",
            ) from error
        except OSError as error:
            raise DiskFull(
                f"the archive could not be written to {destination}",
                details=str(error),
                resolution="check that its folder exists, is writable and has free space",
            ) from error
        finally:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(partial.unlink)

    async def import_checkpoint(
        self, ref: str, source: Path, name: str = "imported", progress: Progress | None = None
    ) -> Checkpoint:
        """Bring an archive into a worker that was created with ``start=False``."""
        size_bytes = await asyncio.to_thread(file_size, source)
        path = f"{self._path(ref, 'checkpoints', 'import')}?name={quote(name, safe='')}"
        answer = await self._link.upload(path, file_chunks(source, progress), size_bytes)
        return item(Checkpoint, answer)


def _limit(timeout_s: float | None) -> dict[str, float]:
    """As a field of the request; managers of earlier versions do not know it."""
    return {} if timeout_s is None else {"timeout_s": timeout_s}


def _holds(worker: Worker, until: str) -> bool:
    if worker.state in ("failed", "deleting"):
        return True
    if until == "settled":
        unstarted = worker.state == "creating" and not worker.raw["start"] and worker.docker_id
        return bool(unstarted) or worker.state in ("running", "paused", "exited")
    if until == "exited":
        return worker.state == "exited"
    return worker.state in (until, "exited")

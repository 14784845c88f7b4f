"""``warmboot.client.workers`` without ``await``, by ``scripts/sync_client.py``."""

from __future__ import annotations

import builtins
from collections.abc import (
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Any

from warmboot.client.sync.portal import Portal
from warmboot.client.worker_results import Checkpoint, Resumed, Worker
from warmboot.client.workers import Workers as _Workers

Progress = Callable[[int], None]


class Workers:
    """Workers and their checkpoints; ``ref`` is a name, an id, or the beginning of an id."""

    def __init__(self, portal: Portal, of: _Workers) -> None:
        self._portal, self._of = portal, of

    def create(
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
        return self._portal.run(
            lambda: self._of.create(
                image,
                command,
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
        )

    def wait(self, ref: str, until: str = "settled", timeout_s: float | None = None) -> Worker:
        """The worker when it is so, has failed, or the time (``None``: no end) is over."""
        return self._portal.run(lambda: self._of.wait(ref, until, timeout_s))

    def logs(self, ref: str, *, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
        """The worker's output, piece by piece."""
        return self._portal.iterate(self._of.logs(ref, follow=follow, tail=tail))

    def pause(
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
        return self._portal.run(
            lambda: self._of.pause(ref, checkpoint, wait=wait, timeout_s=timeout_s)
        )

    def resume(
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
        return self._portal.run(
            lambda: self._of.resume(
                ref,
                checkpoint,
                keep_files=keep_files,
                close_connections=close_connections,
                timeout_s=timeout_s,
            )
        )

    def wake(self, ref: str) -> Worker:
        """Make the worker run, whether it is paused or not, and return when it runs."""
        return self._portal.run(lambda: self._of.wake(ref))

    def report(self, ref: str, kind: str, data: Mapping[str, Any]) -> None:
        """Report something as the worker itself: it becomes an event."""
        self._portal.run(lambda: self._of.report(ref, kind, data))

    def checkpoints(self, ref: str) -> builtins.list[Checkpoint]:
        """Its checkpoints, newest first."""
        return self._portal.run(lambda: self._of.checkpoints(ref))

    def iterate_checkpoints(self, ref: str) -> Iterator[Checkpoint]:
        """As ``checkpoints``, newest first; the next part is asked for when it is needed."""
        return self._portal.iterate(self._of.iterate_checkpoints(ref))

    def checkpoint(self, ref: str, name: str) -> Checkpoint:
        """The checkpoint of this name. ``NotFound``."""
        return self._portal.run(lambda: self._of.checkpoint(ref, name))

    def create_checkpoint(
        self,
        ref: str,
        name: str | None = None,
        *,
        leave_running: bool = True,
        timeout_s: float | None = None,
    ) -> Checkpoint:
        """Make one; what takes longer than ``timeout_s`` is ended, and the worker runs on."""
        return self._portal.run(
            lambda: self._of.create_checkpoint(
                ref, name, leave_running=leave_running, timeout_s=timeout_s
            )
        )

    def delete_checkpoint(self, ref: str, name: str) -> None:
        """Delete it. ``InUse`` if the worker is paused into it."""
        self._portal.run(lambda: self._of.delete_checkpoint(ref, name))

    def export_checkpoint(
        self, ref: str, name: str, destination: Path, progress: Progress | None = None
    ) -> None:
        """Write the archive to ``destination``, which is there only when it is whole.

        ``DiskFull`` when it cannot be written there.
        """
        self._portal.run(lambda: self._of.export_checkpoint(ref, name, destination, progress))

    def import_checkpoint(
        self, ref: str, source: Path, name: str = "imported", progress: Progress | None = None
    ) -> Checkpoint:
        """Bring an archive into a worker that was created with ``start=False``."""
        return self._portal.run(lambda: self._of.import_checkpoint(ref, source, name, progress))

    def list(
        self, *, states: Sequence[str] = (), labels: Sequence[str] = (), name: str = ""
    ) -> builtins.list[Worker]:
        """Those in ``states`` that have all ``labels`` and ``name`` in their name."""
        return self._portal.run(lambda: self._of.list(states=states, labels=labels, name=name))

    def iterate(
        self, *, states: Sequence[str] = (), labels: Sequence[str] = (), name: str = ""
    ) -> Iterator[Worker]:
        """As ``list``, newest first; the next page is asked for when it is needed."""
        return self._portal.iterate(self._of.iterate(states=states, labels=labels, name=name))

    def get(self, ref: str) -> Worker:
        """The one that is called so. ``NotFound``."""
        return self._portal.run(lambda: self._of.get(ref))

    def delete(self, ref: str, *, force: bool = False) -> None:
        """Remove it, with ``force`` also while it runs. ``NotFound``, ``InUse``."""
        self._portal.run(lambda: self._of.delete(ref, force=force))

"""``warmboot.client.nouns`` without ``await``, by ``scripts/sync_client.py``."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from warmboot.client.nouns import Archives as _Archives
from warmboot.client.nouns import Containers as _Containers
from warmboot.client.nouns import Events as _Events
from warmboot.client.nouns import RuntimeImages as _RuntimeImages
from warmboot.client.nouns import RuntimeSnapshots as _RuntimeSnapshots
from warmboot.client.nouns import System as _System
from warmboot.client.results import (
    Check,
    Container,
    Event,
    LogChunk,
    Registered,
    RuntimeImage,
    RuntimeSnapshot,
)
from warmboot.client.sync.portal import Portal, Session
from warmboot.client.usage import ContainerStats, Usage


class RuntimeImages:
    def __init__(self, portal: Portal, of: _RuntimeImages) -> None:
        self._portal, self._of = portal, of

    def register(
        self,
        name: str,
        *,
        path: str | None = None,
        kernel: str | None = None,
        rootfs: str | None = None,
        initrd: str | None = None,
        build_snapshot: bool | None = None,
    ) -> Registered:
        """Paths are the server's. Its snapshot is begun unless that is turned off."""
        return self._portal.run(
            lambda: self._of.register(
                name,
                path=path,
                kernel=kernel,
                rootfs=rootfs,
                initrd=initrd,
                build_snapshot=build_snapshot,
            )
        )

    def list(self, *, name: str = "") -> builtins.list[RuntimeImage]:
        """The images with ``name`` in their name, oldest first."""
        return self._portal.run(lambda: self._of.list(name=name))

    def iterate(self, *, name: str = "") -> Iterator[RuntimeImage]:
        """As ``list``, oldest first; the next part is asked for when it is needed."""
        return self._portal.iterate(self._of.iterate(name=name))

    def get(self, image_id: str) -> RuntimeImage:
        return self._portal.run(lambda: self._of.get(image_id))

    def delete(self, image_id: str) -> None:
        self._portal.run(lambda: self._of.delete(image_id))


class RuntimeSnapshots:
    def __init__(self, portal: Portal, of: _RuntimeSnapshots) -> None:
        self._portal, self._of = portal, of

    def create(
        self, runtime_image_id: str, *, vcpus: int | None = None, memory_mib: int | None = None
    ) -> str:
        """Begin to build a snapshot; returns its id. A shape needs ``vcpus`` and ``memory_mib``."""
        return self._portal.run(
            lambda: self._of.create(runtime_image_id, vcpus=vcpus, memory_mib=memory_mib)
        )

    def list(self, *, include_deleted: bool = False) -> builtins.list[RuntimeSnapshot]:
        return self._portal.run(lambda: self._of.list(include_deleted=include_deleted))

    def iterate(self, *, include_deleted: bool = False) -> Iterator[RuntimeSnapshot]:
        """As ``list``, newest first; the next part is asked for when it is needed."""
        return self._portal.iterate(self._of.iterate(include_deleted=include_deleted))

    def get(self, snapshot_id: str) -> RuntimeSnapshot:
        return self._portal.run(lambda: self._of.get(snapshot_id))

    def change(
        self, snapshot_id: str, *, weight: float | None = None, pinned: bool | None = None
    ) -> RuntimeSnapshot:
        """Set how often it is chosen among its versions, or whether it may be collected."""
        return self._portal.run(lambda: self._of.change(snapshot_id, weight=weight, pinned=pinned))

    def delete(self, snapshot_id: str) -> None:
        self._portal.run(lambda: self._of.delete(snapshot_id))

    def compress(self, snapshot_id: str) -> None:
        """Begin to store its memory compressed; events tell how it went."""
        self._portal.run(lambda: self._of.compress(snapshot_id))

    def unpack(self, snapshot_id: str) -> None:
        """Begin to store its memory plain again."""
        self._portal.run(lambda: self._of.unpack(snapshot_id))

    def rebuild(self, snapshot_id: str) -> str:
        """Begin to build a snapshot's successor, and return the successor's id."""
        return self._portal.run(lambda: self._of.rebuild(snapshot_id))


class Containers:
    def __init__(self, portal: Portal, of: _Containers) -> None:
        self._portal, self._of = portal, of

    def create(self, *, image: str, **fields: Any) -> str:
        """Create a container, and start it unless ``start=False``; returns its id.

        ``fields`` as in POST /v1/containers.
        """
        return self._portal.run(lambda: self._of.create(image=image, **fields))

    def list(
        self,
        *,
        all_states: bool = False,
        states: Sequence[str] = (),
        labels: Sequence[str] = (),
        name: str = "",
    ) -> builtins.list[Container]:
        """Those in ``states`` that have all ``labels`` and ``name`` in their name."""
        return self._portal.run(
            lambda: self._of.list(all_states=all_states, states=states, labels=labels, name=name)
        )

    def iterate(
        self,
        *,
        all_states: bool = False,
        states: Sequence[str] = (),
        labels: Sequence[str] = (),
        name: str = "",
    ) -> Iterator[Container]:
        """As ``list``, newest first; the next part is asked for when it is needed."""
        return self._portal.iterate(
            self._of.iterate(all_states=all_states, states=states, labels=labels, name=name)
        )

    def wait(self, ref: str, until: str = "exited", timeout_s: float | None = None) -> Container:
        """The container when it is so, has failed, or the time (``None``: no end) is over."""
        return self._portal.run(lambda: self._of.wait(ref, until, timeout_s))

    def rename(self, ref: str, name: str) -> Container:
        """Give it another name; its host name stays as it is. ``NameTaken``."""
        return self._portal.run(lambda: self._of.rename(ref, name))

    def stats(self, ref: str) -> ContainerStats:
        """What it uses, as its Docker counts it; this takes a second or two."""
        return self._portal.run(lambda: self._of.stats(ref))

    def start(self, ref: str) -> None:
        self._portal.run(lambda: self._of.start(ref))

    def stop(self, ref: str, timeout_s: float | None = None, signal: str | None = None) -> None:
        """``signal``, then SIGKILL; both and the time between, if not given, are its own."""
        self._portal.run(lambda: self._of.stop(ref, timeout_s, signal))

    def kill(self, ref: str, signal: str = "SIGKILL") -> None:
        self._portal.run(lambda: self._of.kill(ref, signal))

    def pause(self, ref: str) -> None:
        """Have its VM stand still in memory."""
        self._portal.run(lambda: self._of.pause(ref))

    def unpause(self, ref: str) -> None:
        """Have it go on where it was, with the time of now."""
        self._portal.run(lambda: self._of.unpause(ref))

    def fork(self, ref: str, count: int = 1) -> builtins.list[Container]:
        """So many that go on from it as it is now: all of them run, or none is left."""
        return self._portal.run(lambda: self._of.fork(ref, count))

    def restart(self, ref: str, timeout_s: float | None = None) -> None:
        self._portal.run(lambda: self._of.restart(ref, timeout_s))

    def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[LogChunk]:
        """The container's output; ``since`` and ``until`` are times with a time zone."""
        return self._portal.iterate(
            self._of.logs(
                ref, follow=follow, tail=tail, timestamps=timestamps, since=since, until=until
            )
        )

    def boot_log(self, ref: str) -> str:
        """What its guest has said on its console since its VM was booted or restored."""
        return self._portal.run(lambda: self._of.boot_log(ref))

    def exec(
        self, ref: str, command: Sequence[str], **options: Any
    ) -> AbstractContextManager[Session]:
        """Run a command; ``options`` as in the start frame (tty, stdin, environment, …)."""
        return self._portal.entered(self._of.exec(ref, command, **options), self._portal.session)

    def attach(
        self, ref: str, *, logs: bool = True, start: bool = False
    ) -> AbstractContextManager[Session]:
        """The container's own process; with ``logs``, from its first output on.

        One that is being created is waited for. If it was created with ``attach``, it is started
        only when the session has begun. So is one that does not run, with ``start``.
        """
        return self._portal.entered(
            self._of.attach(ref, logs=logs, start=start), self._portal.session
        )

    def get(self, ref: str) -> Container:
        return self._portal.run(lambda: self._of.get(ref))

    def delete(self, ref: str, *, force: bool = False) -> None:
        self._portal.run(lambda: self._of.delete(ref, force=force))


class Archives:
    def __init__(self, portal: Portal, of: _Archives) -> None:
        self._portal, self._of = portal, of

    def upload(self, path: Path, progress: Any = None) -> str:
        """Upload an archive; its id. ``progress`` is called with the bytes sent so far.

        ``path`` may be a pipe, ``/dev/stdin`` included.
        """
        return self._portal.run(lambda: self._of.upload(path, progress))


class Events:
    def __init__(self, portal: Portal, of: _Events) -> None:
        self._portal, self._of = portal, of

    def list(
        self, after: int = 0, limit: int = 100, kinds: Sequence[str] = ()
    ) -> builtins.list[Event]:
        """The events of ``kinds``, or of all kinds."""
        return self._portal.run(lambda: self._of.list(after, limit, kinds))

    def iterate(self, after: int = 0, kinds: Sequence[str] = ()) -> Iterator[Event]:
        """All stored events, oldest first; the next page is requested when it is needed."""
        return self._portal.iterate(self._of.iterate(after, kinds))

    def follow(
        self, after: int | None = None, kinds: Sequence[str] = ()
    ) -> AbstractContextManager[Iterator[Event]]:
        """Events as they come; inside the context, none that happens is missed."""
        return self._portal.entered(self._of.follow(after, kinds), self._portal.iterate)


class System:
    def __init__(self, portal: Portal, of: _System) -> None:
        self._portal, self._of = portal, of

    def info(self) -> Mapping[str, Any]:
        return self._portal.run(lambda: self._of.info())

    def usage(self, window_s: float = 300.0) -> Usage:
        """What VMs and disks use now, and the boots of the last ``window_s`` seconds."""
        return self._portal.run(lambda: self._of.usage(window_s))

    def doctor(self) -> builtins.list[Check]:
        return self._portal.run(lambda: self._of.doctor())

"""``warmboot.client.nouns`` without ``await``, by ``scripts/sync_client.py``."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from warmboot.client.nouns import Archives as _Archives
from warmboot.client.nouns import Events as _Events
from warmboot.client.nouns import RuntimeImages as _RuntimeImages
from warmboot.client.nouns import RuntimeSnapshots as _RuntimeSnapshots
from warmboot.client.nouns import System as _System
from warmboot.client.results import Check, Event, Registered, RuntimeImage, RuntimeSnapshot
from warmboot.client.sync.portal import Portal
from warmboot.client.usage import Usage


class RuntimeImages:
    """Runtime images: kernel and root file system of VMs."""

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
        """The image with this id. ``NotFound``."""
        return self._portal.run(lambda: self._of.get(image_id))

    def delete(self, image_id: str) -> None:
        """Remove it. ``InUse`` while a snapshot or container needs it."""
        self._portal.run(lambda: self._of.delete(image_id))


class RuntimeSnapshots:
    """Snapshots that VMs are restored from."""

    def __init__(self, portal: Portal, of: _RuntimeSnapshots) -> None:
        self._portal, self._of = portal, of

    def create(
        self, runtime_image_id: str, *, vcpus: int | None = None, memory_mib: int | None = None
    ) -> str:
        """Begin to build a snapshot; returns its id. A shape needs ``vcpus`` and ``memory_mib``."""
        return self._portal.run(
            lambda: self._of.create(runtime_image_id, vcpus=vcpus, memory_mib=memory_mib)
        )

    def prepare_image(
        self,
        image: str,
        *,
        runtime_image_id: str | None = None,
        vcpus: int | None = None,
        memory_mib: int | None = None,
    ) -> str:
        """Begin to build one with an image of a registry in it, from which its containers start;
        returns its id. A shape needs ``vcpus`` and ``memory_mib``.
        """
        return self._portal.run(
            lambda: self._of.prepare_image(
                image, runtime_image_id=runtime_image_id, vcpus=vcpus, memory_mib=memory_mib
            )
        )

    def list(self, *, include_deleted: bool = False) -> builtins.list[RuntimeSnapshot]:
        """The snapshots, newest first."""
        return self._portal.run(lambda: self._of.list(include_deleted=include_deleted))

    def iterate(self, *, include_deleted: bool = False) -> Iterator[RuntimeSnapshot]:
        """As ``list``, newest first; the next part is asked for when it is needed."""
        return self._portal.iterate(self._of.iterate(include_deleted=include_deleted))

    def get(self, snapshot_id: str) -> RuntimeSnapshot:
        """The snapshot with this id. ``NotFound``."""
        return self._portal.run(lambda: self._of.get(snapshot_id))

    def change(
        self, snapshot_id: str, *, weight: float | None = None, pinned: bool | None = None
    ) -> RuntimeSnapshot:
        """Set how often it is chosen among its versions, or whether it may be collected."""
        return self._portal.run(lambda: self._of.change(snapshot_id, weight=weight, pinned=pinned))

    def delete(self, snapshot_id: str) -> None:
        """Mark it as deleted; its files go when no VM needs them."""
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


class Archives:
    """Archives of container images, as ``docker save`` writes them."""

    def __init__(self, portal: Portal, of: _Archives) -> None:
        self._portal, self._of = portal, of

    def upload(self, path: Path, progress: Any = None) -> str:
        """Upload an archive; its id. ``progress`` is called with the bytes sent so far.

        ``path`` may be a pipe, ``/dev/stdin`` included.
        """
        return self._portal.run(lambda: self._of.upload(path, progress))


class Events:
    """What has happened, and what happens."""

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
    """The manager and its machine."""

    def __init__(self, portal: Portal, of: _System) -> None:
        self._portal, self._of = portal, of

    def info(self) -> Mapping[str, Any]:
        """The manager's version, hypervisor, default shape and limits, as in GET /v1/info."""
        return self._portal.run(lambda: self._of.info())

    def usage(self, window_s: float = 300.0) -> Usage:
        """What VMs and disks use now, and the boots of the last ``window_s`` seconds."""
        return self._portal.run(lambda: self._of.usage(window_s))

    def doctor(self) -> builtins.list[Check]:
        """What works on the manager's machine, what does not, and what to do."""
        return self._portal.run(lambda: self._of.doctor())

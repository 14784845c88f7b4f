"""The client's methods, one class per resource; they mirror the API's paths."""

from __future__ import annotations

import asyncio
import builtins
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmboot.client.decode import all_items, decoded, item, items
from warmboot.client.resource import flags, given
from warmboot.client.results import (
    Check,
    Event,
    Registered,
    RuntimeImage,
    RuntimeSnapshot,
)
from warmboot.client.streams import server_sent
from warmboot.client.transport import Transport, segment
from warmboot.client.usage import Usage

if TYPE_CHECKING:
    pass

UPLOAD_CHUNK_BYTES = 1024 * 1024


class RuntimeImages:
    """Runtime images: kernel and root file system of VMs."""

    def __init__(self, link: Transport) -> None:
        self._link = link

    async def register(
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
        body = given(
            name=name,
            path=path,
            kernel=kernel,
            rootfs=rootfs,
            initrd=initrd,
            build_snapshot=build_snapshot,
        )
        return decoded(Registered, await self._link.post("/v1/runtime-images", body))

    async def list(self, *, name: str = "") -> builtins.list[RuntimeImage]:
        """The images with ``name`` in their name, oldest first."""
        return [image async for image in self.iterate(name=name)]

    def iterate(self, *, name: str = "") -> AsyncIterator[RuntimeImage]:
        """As ``list``, oldest first; the next part is asked for when it is needed."""
        params = given(name=name or None)
        return all_items(RuntimeImage, self._link.get, "/v1/runtime-images", params)

    async def get(self, image_id: str) -> RuntimeImage:
        """The image with this id. ``NotFound``."""
        path = f"/v1/runtime-images/{segment(image_id, 'runtime image')}"
        return item(RuntimeImage, await self._link.get(path))

    async def delete(self, image_id: str) -> None:
        """Remove it. ``InUse`` while a snapshot or container needs it."""
        await self._link.delete(f"/v1/runtime-images/{segment(image_id, 'runtime image')}")


class RuntimeSnapshots:
    """Snapshots that VMs are restored from."""

    def __init__(self, link: Transport) -> None:
        self._link = link

    async def create(
        self, runtime_image_id: str, *, vcpus: int | None = None, memory_mib: int | None = None
    ) -> str:
        """Begin to build a snapshot; returns its id. A shape needs ``vcpus`` and ``memory_mib``."""
        body: dict[str, Any] = {"runtime_image_id": runtime_image_id}
        if vcpus is not None or memory_mib is not None:
            body["shape"] = given(vcpus=vcpus, memory_mib=memory_mib)
        return str((await self._link.post("/v1/runtime-snapshots", body))["id"])

    async def prepare_image(
        self,
        image: str,
        *,
        runtime_image_id: str | None = None,
        vcpus: int | None = None,
        memory_mib: int | None = None,
    ) -> str:
        """Begin to build one with an image of a registry in it, from which its containers start;
        returns its id. A shape needs ``vcpus`` and ``memory_mib``."""
        body = given(image=image, runtime_image_id=runtime_image_id)
        if vcpus is not None or memory_mib is not None:
            body["shape"] = given(vcpus=vcpus, memory_mib=memory_mib)
        return str((await self._link.post("/v1/runtime-snapshots", body))["id"])

    async def list(self, *, include_deleted: bool = False) -> builtins.list[RuntimeSnapshot]:
        """The snapshots, newest first."""
        return [snapshot async for snapshot in self.iterate(include_deleted=include_deleted)]

    def iterate(self, *, include_deleted: bool = False) -> AsyncIterator[RuntimeSnapshot]:
        """As ``list``, newest first; the next part is asked for when it is needed."""
        params = flags(include_deleted=include_deleted)
        return all_items(RuntimeSnapshot, self._link.get, "/v1/runtime-snapshots", params)

    async def get(self, snapshot_id: str) -> RuntimeSnapshot:
        """The snapshot with this id. ``NotFound``."""
        path = f"/v1/runtime-snapshots/{segment(snapshot_id, 'runtime snapshot')}"
        return item(RuntimeSnapshot, await self._link.get(path))

    async def change(
        self, snapshot_id: str, *, weight: float | None = None, pinned: bool | None = None
    ) -> RuntimeSnapshot:
        """Set how often it is chosen among its versions, or whether it may be collected."""
        path = f"/v1/runtime-snapshots/{segment(snapshot_id, 'runtime snapshot')}"
        body = given(weight=weight, pinned=pinned)
        return item(RuntimeSnapshot, await self._link.patch(path, body))

    async def delete(self, snapshot_id: str) -> None:
        """Mark it as deleted; its files go when no VM needs them."""
        await self._link.delete(f"/v1/runtime-snapshots/{segment(snapshot_id, 'runtime snapshot')}")

    async def compress(self, snapshot_id: str) -> None:
        """Begin to store its memory compressed; events tell how it went."""
        await self._link.post(
            f"/v1/runtime-snapshots/{segment(snapshot_id, 'runtime snapshot')}/compress"
        )

    async def unpack(self, snapshot_id: str) -> None:
        """Begin to store its memory plain again."""
        await self._link.post(
            f"/v1/runtime-snapshots/{segment(snapshot_id, 'runtime snapshot')}/unpack"
        )

    async def rebuild(self, snapshot_id: str) -> str:
        """Begin to build a snapshot's successor, and return the successor's id."""
        path = f"/v1/runtime-snapshots/{segment(snapshot_id, 'runtime snapshot')}/rebuild"
        return str((await self._link.post(path))["id"])


class Archives:
    """Archives of container images, as ``docker save`` writes them."""

    def __init__(self, link: Transport) -> None:
        self._link = link

    async def upload(self, path: Path, progress: Any = None) -> str:
        """Upload an archive; its id. ``progress`` is called with the bytes sent so far.

        ``path`` may be a pipe, ``/dev/stdin`` included.
        """
        size_bytes = await asyncio.to_thread(file_size, path)
        chunks = file_chunks(path, progress)
        return str((await self._link.upload("/v1/archives", chunks, size_bytes))["id"])


def file_size(path: Path) -> int | None:
    """The size of a file in bytes; ``None`` for a pipe, whose size is known when it was read."""
    status = path.stat()
    return status.st_size if stat.S_ISREG(status.st_mode) else None


async def file_chunks(path: Path, progress: Any) -> AsyncIterator[bytes]:
    """A file's content; ``progress`` is called with the bytes sent so far."""
    sent = 0
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, UPLOAD_CHUNK_BYTES):
            yield chunk
            sent += len(chunk)
            if progress is not None:
                progress(sent)


class Events:
    """What has happened, and what happens."""

    def __init__(self, link: Transport) -> None:
        self._link = link

    async def list(
        self, after: int = 0, limit: int = 100, kinds: Sequence[str] = ()
    ) -> builtins.list[Event]:
        """The events of ``kinds``, or of all kinds."""
        wanted = {"after": after, "limit": limit, **given(kind=kinds or None)}
        return items(Event, await self._link.get("/v1/events", wanted))

    def iterate(self, after: int = 0, kinds: Sequence[str] = ()) -> AsyncIterator[Event]:
        """All stored events, oldest first; the next page is requested when it is needed."""
        wanted = {"after": after, **given(kind=kinds or None)}
        return all_items(Event, self._link.get, "/v1/events", wanted)

    @asynccontextmanager
    async def follow(
        self, after: int | None = None, kinds: Sequence[str] = ()
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Events as they come; inside the context, none that happens is missed."""
        accept = {"Accept": "text/event-stream"}
        wanted = given(after=after, kind=kinds or None)
        async with self._link.stream("/v1/events", wanted, accept) as response:
            received = server_sent(response.aiter_lines())
            await anext(received, None)
            yield _only_events(received)


async def _only_events(received: AsyncIterator[Event | None]) -> AsyncIterator[Event]:
    async for event in received:
        if event is not None:
            yield event


class System:
    """The manager and its machine."""

    def __init__(self, link: Transport) -> None:
        self._link = link

    async def info(self) -> Mapping[str, Any]:
        """The manager's version, hypervisor, default shape and limits, as in GET /v1/info."""
        item: Mapping[str, Any] = (await self._link.get("/v1/info"))["item"]
        return item

    async def usage(self, window_s: float = 300.0) -> Usage:
        """What VMs and disks use now, and the boots of the last ``window_s`` seconds."""
        return item(Usage, await self._link.get("/v1/system/usage", {"window_s": window_s}))

    async def doctor(self) -> builtins.list[Check]:
        """What works on the manager's machine, what does not, and what to do."""
        return items(Check, await self._link.get("/v1/doctor"))

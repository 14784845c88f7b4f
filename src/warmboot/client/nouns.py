"""The client's methods, one class per resource; they mirror the API's paths."""

from __future__ import annotations

import asyncio
import builtins
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmboot.client.decode import all_items, decoded, item, items
from warmboot.client.resource import Resource
from warmboot.client.results import (
    Check,
    Container,
    Event,
    LogChunk,
    Registered,
    RuntimeImage,
    RuntimeSnapshot,
)
from warmboot.client.streams import MULTIPLEXED, demultiplexed, server_sent
from warmboot.client.transport import Transport, segment
from warmboot.client.usage import ContainerStats, Usage

if TYPE_CHECKING:
    from warmboot.client.sessions import Session

UPLOAD_CHUNK_BYTES = 1024 * 1024


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _flags(**values: bool) -> dict[str, str]:
    return {name: "true" for name, value in values.items() if value}


class RuntimeImages:
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
        body = _given(
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
        params = _given(name=name or None)
        return all_items(RuntimeImage, self._link.get, "/v1/runtime-images", params)

    async def get(self, image_id: str) -> RuntimeImage:
        path = f"/v1/runtime-images/{segment(image_id, 'runtime image')}"
        return item(RuntimeImage, await self._link.get(path))

    async def delete(self, image_id: str) -> None:
        await self._link.delete(f"/v1/runtime-images/{segment(image_id, 'runtime image')}")


class RuntimeSnapshots:
    def __init__(self, link: Transport) -> None:
        self._link = link

    async def create(
        self, runtime_image_id: str, *, vcpus: int | None = None, memory_mib: int | None = None
    ) -> str:
        """Begin to build a snapshot; returns its id. A shape needs ``vcpus`` and ``memory_mib``."""
        body: dict[str, Any] = {"runtime_image_id": runtime_image_id}
        if vcpus is not None or memory_mib is not None:
            body["shape"] = _given(vcpus=vcpus, memory_mib=memory_mib)
        return str((await self._link.post("/v1/runtime-snapshots", body))["id"])

    async def list(self, *, include_deleted: bool = False) -> builtins.list[RuntimeSnapshot]:
        return [snapshot async for snapshot in self.iterate(include_deleted=include_deleted)]

    def iterate(self, *, include_deleted: bool = False) -> AsyncIterator[RuntimeSnapshot]:
        """As ``list``, newest first; the next part is asked for when it is needed."""
        params = _flags(include_deleted=include_deleted)
        return all_items(RuntimeSnapshot, self._link.get, "/v1/runtime-snapshots", params)

    async def get(self, snapshot_id: str) -> RuntimeSnapshot:
        path = f"/v1/runtime-snapshots/{segment(snapshot_id, 'runtime snapshot')}"
        return item(RuntimeSnapshot, await self._link.get(path))

    async def change(
        self, snapshot_id: str, *, weight: float | None = None, pinned: bool | None = None
    ) -> RuntimeSnapshot:
        """Set how often it is chosen among its versions, or whether it may be collected."""
        path = f"/v1/runtime-snapshots/{segment(snapshot_id, 'runtime snapshot')}"
        body = _given(weight=weight, pinned=pinned)
        return item(RuntimeSnapshot, await self._link.patch(path, body))

    async def delete(self, snapshot_id: str) -> None:
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


class Containers(Resource[Container]):
    TYPE, WHAT = Container, "container"

    def __init__(self, link: Transport, token: str | None) -> None:
        super().__init__(link)
        self._token = token

    async def create(self, *, image: str, **fields: Any) -> str:
        """Create a container, and start it unless ``start=False``; returns its id.

        ``fields`` as in POST /v1/containers.
        """
        return str((await self._link.post("/v1/containers", {"image": image, **fields}))["id"])

    async def list(
        self,
        *,
        all_states: bool = False,
        states: Sequence[str] = (),
        labels: Sequence[str] = (),
        name: str = "",
    ) -> builtins.list[Container]:
        """Those in ``states`` that have all ``labels`` and ``name`` in their name."""
        found = self.iterate(all_states=all_states, states=states, labels=labels, name=name)
        return [container async for container in found]

    def iterate(
        self,
        *,
        all_states: bool = False,
        states: Sequence[str] = (),
        labels: Sequence[str] = (),
        name: str = "",
    ) -> AsyncIterator[Container]:
        """As ``list``, newest first; the next part is asked for when it is needed."""
        wanted = {"state": states, "label": labels, "name": name}
        return self._all({**wanted, **_flags(all=all_states)})

    async def wait(
        self, ref: str, until: str = "exited", timeout_s: float | None = None
    ) -> Container:
        """The container when it is so, has failed, or the time (``None``: no end) is over."""
        return await self._until(ref, until, lambda one: _holds(one, until), timeout_s)

    async def rename(self, ref: str, name: str) -> Container:
        """Give it another name; its host name stays as it is. ``NameTaken``."""
        return item(Container, await self._link.patch(self._path(ref), {"name": name}))

    async def stats(self, ref: str) -> ContainerStats:
        """What it uses, as its Docker counts it; this takes a second or two."""
        return item(ContainerStats, await self._link.get(self._path(ref, "stats")))

    async def start(self, ref: str) -> None:
        await self._link.post(self._path(ref, "start"))

    async def stop(
        self, ref: str, timeout_s: float | None = None, signal: str | None = None
    ) -> None:
        """``signal``, then SIGKILL; both and the time between, if not given, are its own."""
        params = _given(timeout_s=timeout_s, signal=signal)
        await self._link.post_slow(self._path(ref, "stop"), params)

    async def kill(self, ref: str, signal: str = "SIGKILL") -> None:
        await self._link.post(self._path(ref, "kill"), params={"signal": signal})

    async def pause(self, ref: str) -> None:
        """Have its VM stand still in memory."""
        await self._link.post(self._path(ref, "pause"))

    async def unpause(self, ref: str) -> None:
        """Have it go on where it was, with the time of now."""
        await self._link.post_slow(self._path(ref, "unpause"), {})

    async def fork(self, ref: str, count: int = 1) -> builtins.list[Container]:
        """So many that go on from it as it is now: all of them run, or none is left."""
        made = await self._link.post_slow(self._path(ref, "fork"), {}, {"count": count})
        return items(Container, made)

    async def restart(self, ref: str, timeout_s: float | None = None) -> None:
        await self._link.post_slow(self._path(ref, "restart"), _given(timeout_s=timeout_s))

    async def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[LogChunk]:
        """The container's output; ``since`` and ``until`` are times with a time zone."""
        times = {k: v.isoformat() for k, v in (("since", since), ("until", until)) if v}
        params = {**_flags(follow=follow, timestamps=timestamps), **_given(tail=tail), **times}
        accept = {"Accept": MULTIPLEXED}
        async with self._link.stream(self._path(ref, "logs"), params, accept) as response:
            async for chunk in demultiplexed(response.aiter_raw()):
                yield chunk

    async def boot_log(self, ref: str) -> str:
        """What its guest has said on its console since its VM was booted or restored."""
        async with self._link.stream(self._path(ref, "boot-log"), {}, {}) as response:
            return (await response.aread()).decode()

    def exec(
        self, ref: str, command: Sequence[str], **options: Any
    ) -> AbstractAsyncContextManager[Session]:
        """Run a command; ``options`` as in the start frame (tty, stdin, environment, …)."""
        from warmboot.client.sessions import open_session

        start = {"command": list(command), **_given(**options)}
        return open_session(self._link.endpoint, self._path(ref, "exec"), self._token, start)

    def attach(
        self, ref: str, *, logs: bool = True, start: bool = False
    ) -> AbstractAsyncContextManager[Session]:
        """The container's own process; with ``logs``, from its first output on.

        One that is being created is waited for. If it was created with ``attach``, it is started
        only when the session has begun. So is one that does not run, with ``start``.
        """
        from warmboot.client.sessions import open_session

        flags = [*(() if logs else ("logs=false",)), *(("start=true",) if start else ())]
        path = self._path(ref, "attach") + ("?" + "&".join(flags) if flags else "")
        return open_session(self._link.endpoint, path, self._token, None)


def _holds(container: Container, until: str) -> bool:
    ended, runs = container.state in ("exited", "failed", "deleting"), ("running", "paused")
    if until == "booted":
        return ended or container.state in runs or container.boot_method is not None
    if until == "healthy":
        return ended or container.health in ("healthy", "none")
    return ended or (until == "running" and container.state in runs)


class Archives:
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
    def __init__(self, link: Transport) -> None:
        self._link = link

    async def list(
        self, after: int = 0, limit: int = 100, kinds: Sequence[str] = ()
    ) -> builtins.list[Event]:
        """The events of ``kinds``, or of all kinds."""
        wanted = {"after": after, "limit": limit, **_given(kind=kinds or None)}
        return items(Event, await self._link.get("/v1/events", wanted))

    def iterate(self, after: int = 0, kinds: Sequence[str] = ()) -> AsyncIterator[Event]:
        """All stored events, oldest first; the next page is requested when it is needed."""
        wanted = {"after": after, **_given(kind=kinds or None)}
        return all_items(Event, self._link.get, "/v1/events", wanted)

    @asynccontextmanager
    async def follow(
        self, after: int | None = None, kinds: Sequence[str] = ()
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Events as they come; inside the context, none that happens is missed."""
        accept = {"Accept": "text/event-stream"}
        wanted = _given(after=after, kind=kinds or None)
        async with self._link.stream("/v1/events", wanted, accept) as response:
            received = server_sent(response.aiter_lines())
            await anext(received, None)
            yield _only_events(received)


async def _only_events(received: AsyncIterator[Event | None]) -> AsyncIterator[Event]:
    async for event in received:
        if event is not None:
            yield event


class System:
    def __init__(self, link: Transport) -> None:
        self._link = link

    async def info(self) -> Mapping[str, Any]:
        item: Mapping[str, Any] = (await self._link.get("/v1/info"))["item"]
        return item

    async def usage(self, window_s: float = 300.0) -> Usage:
        """What VMs and disks use now, and the boots of the last ``window_s`` seconds."""
        return item(Usage, await self._link.get("/v1/system/usage", {"window_s": window_s}))

    async def doctor(self) -> builtins.list[Check]:
        return items(Check, await self._link.get("/v1/doctor"))

"""The client's methods for engines (``/v1/engines``)."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Unpack

from warmboot.client.decode import items
from warmboot.client.engines.fields import EngineFields
from warmboot.client.problems import error_of
from warmboot.client.resource import Resource, given
from warmboot.client.results import Shape, Stage
from warmboot.model.errors import NotFound


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine: ``docker_host`` is what clients of Docker take as ``DOCKER_HOST``."""

    id: str
    name: str
    state: str
    docker_host: str
    socket: str
    owner_uid: int
    boot_method: str | None
    fallback_reason: str | None
    fallback_message: str
    fallback_details: str
    boot_s: float | None
    stages: tuple[Stage, ...]
    shape: Shape
    auto_remove: bool
    expires_at: datetime | None
    error: Mapping[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    raw: Mapping[str, Any] = field(repr=False)
    address: str = ""
    """Its own, of the loopback of the manager's machine; empty where it cannot have ports."""


class Engines(Resource[Engine]):
    """Engines, each a Docker in a VM of its own; ``ref`` is a name, an id, or its beginning."""

    TYPE, WHAT = Engine, "engine"

    async def create(
        self,
        *,
        name: str | None = None,
        shape: Mapping[str, int] | None = None,
        boot: str | None = None,
        snapshot: str | None = None,
        runtime_image_id: str | None = None,
        disk_mib: int | None = None,
        owner_uid: int | None = None,
        labels: Mapping[str, str] | None = None,
        host_ports: Sequence[int] | None = None,
        folders: Sequence[Mapping[str, Any]] | None = None,
        tcp: Mapping[str, Any] | None = None,
        auto_remove: bool | None = None,
        time_to_live_s: float | None = None,
        holder: Mapping[str, int] | None = None,
        park_at_shutdown: bool | None = None,
        park_after_idle_s: float | None = None,
    ) -> str:
        """Create an engine and begin its start; returns its id.

        What is not given is the API's default. ``shape``: ``{"vcpus": 2, "memory_mib": 2048}``.
        ``boot``: ``auto`` or ``cold``. ``snapshot``: of an engine, by name or id, from which it
        goes on. ``owner_uid``: the user of the manager's machine who gets its socket.
        ``host_ports``: TCP ports of that machine's 127.0.0.1 that it may reach, at 198.18.0.1.
        ``folders``: of that machine, which its containers can mount,
        ``[{"path": "/srv/code", "read_only": False}]``.
        ``tcp``: ``{"address": "127.0.0.1", "port": 2376}``, where it is reached over TLS, too.
        ``auto_remove``: when it has stopped; ``time_to_live_s``: after so many seconds;
        ``holder``: when this process has ended, ``{"pid": 1234, "start_time_ticks": 5678}``.
        ``park_at_shutdown``: when the manager stops; it is woken when that starts.
        ``park_after_idle_s``: when nobody has used it for so many seconds.
        """
        body = given(
            name=name,
            shape=shape,
            boot=boot,
            snapshot=snapshot,
            runtime_image_id=runtime_image_id,
            disk_mib=disk_mib,
            owner_uid=owner_uid,
            labels=labels,
            host_ports=host_ports,
            folders=folders,
            tcp=tcp,
            auto_remove=auto_remove,
            time_to_live_s=time_to_live_s,
            holder=holder,
            park_at_shutdown=park_at_shutdown,
            park_after_idle_s=park_after_idle_s,
        )
        return str((await self._link.post("/v1/engines", body))["id"])

    async def wait(
        self, ref: str, until: str = "running", timeout_s: float | None = None
    ) -> Engine:
        """The engine when it is so, has failed, or the time (``None``: no end) is over."""
        over = {"failed", "deleting", until}
        if until == "running":  # it came to that, or never will
            over |= {"paused", "parking", "parked", "stopped"}
        return await self._until(ref, until, lambda one: one.state in over, timeout_s)

    async def start(self, ref: str) -> None:
        """Start one that is stopped or has failed, on its disk; returns when that has begun."""
        await self._link.post(self._path(ref, "start"))

    async def stop(self, ref: str, timeout_s: float | None = None) -> None:
        """Stop its containers, each within ``timeout_s``, then its VM; its disk is kept."""
        params = {} if timeout_s is None else {"timeout_s": timeout_s}
        await self._link.post_slow(self._path(ref, "stop"), params)

    async def pause(self, ref: str) -> None:
        """Have its VM stand still in memory."""
        await self._link.post_slow(self._path(ref, "pause"), {})

    async def unpause(self, ref: str) -> None:
        """Have it go on where it was, with the time of now."""
        await self._link.post_slow(self._path(ref, "unpause"), {})

    async def park(self, ref: str) -> None:
        """Have its memory on the disk, and no VM, when this returns."""
        await self._link.post_slow(self._path(ref, "park"), {})

    async def wake(self, ref: str) -> None:
        """Have it go on where it was when it was parked, with the time of now."""
        await self._link.post_slow(self._path(ref, "wake"), {})

    async def snapshot(self, ref: str, name: str) -> str:
        """Freeze it, as it runs, into a snapshot of this name; the snapshot's id."""
        made = await self._link.post_slow(self._path(ref, "snapshot"), {}, {"name": name})
        return str(made["id"])

    async def fork(
        self, ref: str, count: int = 1, *, writable_folders: bool = False
    ) -> builtins.list[Engine]:
        """So many engines that go on from it as it is now: all of them run, or none is left. They
        read folders of the host; with ``writable_folders`` they write to them as it does."""
        body = {"count": count, **({"writable_folders": True} if writable_folders else {})}
        made = await self._link.post_slow(self._path(ref, "fork"), {}, body)
        return items(Engine, made)

    @asynccontextmanager
    async def running(self, **fields: Unpack[EngineFields]) -> AsyncIterator[Engine]:
        """An engine that runs, and is removed at the end. ``fields`` as for ``create``."""
        engine_id = await self.create(**fields)
        try:
            yield await self._up(engine_id)
        finally:
            await self._removed(engine_id)

    @asynccontextmanager
    async def forked(self, ref: str) -> AsyncIterator[Engine]:
        """One that goes on from it as it is now, and is removed at the end."""
        (engine,) = await self.fork(ref)
        try:
            yield await self._up(engine.id)
        finally:
            await self._removed(engine.id)

    @asynccontextmanager
    async def snapshotted(self, ref: str, name: str) -> AsyncIterator[str]:
        """The id of a snapshot of it as it is now, which is removed at the end."""
        snapshot_id = await self.snapshot(ref, name)
        try:
            yield snapshot_id
        finally:
            with contextlib.suppress(NotFound):  # somebody may have removed it before
                await self._link.delete(f"/v1/runtime-snapshots/{snapshot_id}")

    async def _up(self, engine_id: str) -> Engine:
        engine = await self.wait(engine_id)
        if engine.state != "running":
            raise error_of(engine.error or {"brief": f"the engine is {engine.state}"})
        return engine

    async def _removed(self, engine_id: str) -> None:
        with contextlib.suppress(NotFound):
            await self.delete(engine_id, force=True)

    async def log_in(self, ref: str, logins: Sequence[Mapping[str, str]]) -> None:
        """Have it pull, push and build with these; each as in PUT …/registry-logins."""
        body = {"logins": [dict(login) for login in logins]}
        await self._link.put(self._path(ref, "registry-logins"), body)

    async def boot_log(self, ref: str) -> str:
        """What its guest has said on its console since its VM was booted or restored."""
        async with self._link.stream(self._path(ref, "boot-log"), {}, {}) as response:
            return (await response.aread()).decode()

    async def certificates(self, ref: str) -> Mapping[str, str]:
        """``ca``, ``cert`` and ``key``, in PEM: for who reaches it over TCP; ``expires_at``."""
        found: Mapping[str, str] = (await self._link.get(self._path(ref, "certificates")))["item"]
        return found

    async def renew_certificates(self, ref: str) -> None:
        """Have new ones; with the former nobody gets in any more."""
        await self._link.post(self._path(ref, "certificates", "renew"))

    async def disk(self, ref: str) -> Mapping[str, int | None]:
        """``stored_bytes`` on the host; ``size_bytes`` and ``used_bytes`` in the guest, if it
        can be asked."""
        found: Mapping[str, int | None] = (await self._link.get(self._path(ref, "disk")))["item"]
        return found

"""The client's methods for engines (``/v1/engines``)."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from warmboot.client.decode import items
from warmboot.client.problems import error_of
from warmboot.client.resource import Resource
from warmboot.client.results import Shape, Stage
from warmboot.model.errors import NotFound


@dataclass(frozen=True, slots=True)
class Engine:
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
    TYPE, WHAT = Engine, "engine"

    async def create(self, **fields: Any) -> str:
        """Create and start an engine; its id. ``fields`` as in POST /v1/engines."""
        return str((await self._link.post("/v1/engines", fields))["id"])

    async def wait(
        self, ref: str, until: str = "running", timeout_s: float | None = None
    ) -> Engine:
        """The engine when it is so, has failed, or the time (``None``: no end) is over."""
        over = {"failed", "deleting", until}
        if until == "running":  # it came to that, or never will
            over |= {"paused", "stopped"}
        return await self._until(ref, until, lambda one: one.state in over, timeout_s)

    async def start(self, ref: str) -> None:
        await self._link.post(self._path(ref, "start"))

    async def stop(self, ref: str, timeout_s: float | None = None) -> None:
        params = {} if timeout_s is None else {"timeout_s": timeout_s}
        await self._link.post_slow(self._path(ref, "stop"), params)

    async def pause(self, ref: str) -> None:
        """Have its VM stand still in memory."""
        await self._link.post_slow(self._path(ref, "pause"), {})

    async def unpause(self, ref: str) -> None:
        """Have it go on where it was, with the time of now."""
        await self._link.post_slow(self._path(ref, "unpause"), {})

    async def snapshot(self, ref: str, name: str) -> str:
        """Freeze it, as it runs, into a snapshot of this name; the snapshot's id."""
        made = await self._link.post_slow(self._path(ref, "snapshot"), {}, {"name": name})
        return str(made["id"])

    async def fork(self, ref: str, count: int = 1) -> builtins.list[Engine]:
        """So many engines that go on from it as it is now: all of them run, or none is left."""
        made = await self._link.post_slow(self._path(ref, "fork"), {}, {"count": count})
        return items(Engine, made)

    @asynccontextmanager
    async def running(self, **fields: Any) -> AsyncIterator[Engine]:
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

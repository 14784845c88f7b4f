"""The client's methods for engines (``/v1/engines``)."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from warmboot.client.decode import all_items, item, items, wait_for
from warmboot.client.path_segment import segment
from warmboot.client.results import Shape, Stage
from warmboot.client.transport import Transport


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


class Engines:
    def __init__(self, link: Transport) -> None:
        self._link = link

    @staticmethod
    def _path(ref: str, *what: str) -> str:
        return "/".join(["/v1/engines", segment(ref, "engine"), *what])

    async def create(self, **fields: Any) -> str:
        """Create and start an engine; its id. ``fields`` as in POST /v1/engines."""
        return str((await self._link.post("/v1/engines", fields))["id"])

    async def list(
        self, *, states: Sequence[str] = (), labels: Sequence[str] = (), name: str = ""
    ) -> builtins.list[Engine]:
        """Those in ``states`` that have all ``labels`` and ``name`` in their name."""
        return [engine async for engine in self.iterate(states=states, labels=labels, name=name)]

    def iterate(
        self, *, states: Sequence[str] = (), labels: Sequence[str] = (), name: str = ""
    ) -> AsyncIterator[Engine]:
        """All engines as ``list`` has them, newest first; the next page is asked for when
        it is needed.
        """
        wanted = {"state": states, "label": labels, "name": name}
        params = {key: value for key, value in wanted.items() if value}
        return all_items(Engine, self._link.get, "/v1/engines", params)

    async def get(self, ref: str) -> Engine:
        return item(Engine, await self._link.get(self._path(ref)))

    async def wait(
        self, ref: str, until: str = "running", timeout_s: float | None = None
    ) -> Engine:
        """The engine when it is so, has failed, or the time (``None``: no end) is over."""

        async def ask(wait_s: float) -> Engine:
            params = {"until": until, "timeout_s": wait_s}
            path = self._path(ref, "wait")
            return item(Engine, await self._link.get(path, params, timeout=wait_s + 30))

        return await wait_for(
            ask, lambda one: one.state in (until, "failed", "deleting"), timeout_s
        )

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

    async def delete(self, ref: str, *, force: bool = False) -> None:
        await self._link.delete(self._path(ref), {"force": "true"} if force else {})

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

"""The client: one attribute a noun.

async with Client("http://127.0.0.1:18080", token) as client:
    container_id = await client.containers.create(image="redis:7", name="cache")
    container = await client.containers.wait(container_id, "running")
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

from warmboot.client.garbage import GarbageCollector
from warmboot.client.nouns import (
    Archives,
    Containers,
    Events,
    RuntimeImages,
    RuntimeSnapshots,
    System,
)
from warmboot.client.transport import Transport
from warmboot.client.workers import Workers

DEFAULT_URL = "http://127.0.0.1:18080"
TIMEOUT_S = 300.0
CONNECT_TIMEOUT_S = 10.0


class Client:
    """Talks to one manager. All methods raise errors of ``warmboot.model.errors``.

    ``transport`` is for tests: an httpx transport in place of the network.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        headers: dict[str, Any] = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            transport=transport,
            trust_env=False,
        )
        link = Transport(self._http)
        self.images = RuntimeImages(link)
        self.snapshots = RuntimeSnapshots(link)
        self.containers = Containers(link, token)
        self.archives = Archives(link)
        self.workers = Workers(link)
        self.events = Events(link)
        self.garbage = GarbageCollector(link)
        self.system = System(link)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.__aexit__(kind, error, traceback)

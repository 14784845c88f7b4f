"""The client: one attribute per resource.

async with Client() as client:
    container_id = await client.containers.create(image="redis:7", name="cache")
    container = await client.containers.wait(container_id, "running")
"""

from __future__ import annotations

import os
import ssl
from types import TracebackType
from typing import Any, Self

import httpx

from warmboot.client.containers import Containers
from warmboot.client.endpoint import DEFAULT_URL, Endpoint
from warmboot.client.engines import Engines
from warmboot.client.files.container_files import ContainerFiles
from warmboot.client.garbage import GarbageCollector
from warmboot.client.nouns import (
    Archives,
    Events,
    RuntimeImages,
    RuntimeSnapshots,
    System,
)
from warmboot.client.problems import check_address
from warmboot.client.transport import Transport
from warmboot.client.workers import Workers
from warmboot.model.conventions.tokens import is_token
from warmboot.model.errors import Unauthorized

__all__ = ["DEFAULT_URL", "Client"]

TIMEOUT_S = 300.0
CONNECT_TIMEOUT_S = 10.0


def _tls(endpoint: Endpoint) -> ssl.SSLContext | bool:
    """The usual certificates; none where there is no TLS, as to read them takes its time."""
    https = endpoint.url.startswith("https:")
    return True if https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Client:
    """Talks to one manager. All methods raise errors of ``warmboot.model.errors``.

    Without ``base_url`` (``http://…``, ``https://…`` or ``unix:///path``) that is the one of this
    machine, or the one that ``WARMBOOT_URL`` and ``WARMBOOT_TOKEN`` tell of (see ``endpoint``).
    ``transport`` is for tests: an httpx transport in place of the network.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        if base_url is None:
            token = token or os.environ.get("WARMBOOT_TOKEN") or None
            endpoint = Endpoint.usual(token=bool(token))
        else:
            endpoint = Endpoint.of(base_url)
        check_address(endpoint)
        if token and not is_token(token):
            raise Unauthorized(
                "this is not a token",
                details="it has blanks, or characters that are not ASCII",
                resolution="check WARMBOOT_TOKEN",
            )
        if transport is None and endpoint.socket is not None:
            transport = httpx.AsyncHTTPTransport(uds=str(endpoint.socket), verify=_tls(endpoint))
        headers: dict[str, Any] = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(
            base_url=endpoint.url,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            transport=transport,
            verify=_tls(endpoint),
            trust_env=False,
        )
        link = Transport(self._http, endpoint)
        self.images = RuntimeImages(link)
        self.snapshots = RuntimeSnapshots(link)
        self.containers = Containers(link, token)
        self.files = ContainerFiles(link)
        self.engines = Engines(link)
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

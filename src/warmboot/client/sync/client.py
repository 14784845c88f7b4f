"""The client for programs without an event loop.

with SyncClient() as client:
    container_id = client.containers.create(image="redis:7", name="cache")
    container = client.containers.wait(container_id, "running")
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from warmboot.client.client import Client
from warmboot.client.sync.containers import Containers
from warmboot.client.sync.engines import Engines
from warmboot.client.sync.files import ContainerFiles
from warmboot.client.sync.garbage import GarbageCollector
from warmboot.client.sync.nouns import (
    Archives,
    Events,
    RuntimeImages,
    RuntimeSnapshots,
    System,
)
from warmboot.client.sync.portal import Portal
from warmboot.client.sync.workers import Workers


class SyncClient:
    """``Client`` without ``await``: the same attributes, methods and errors, and its parameters.

    It is a context manager. Its work is done by a thread with a loop of its own, so it may be used
    by several threads at a time, but not in an event loop, which it would hold up.
    """

    def __init__(
        self, base_url: str | None = None, token: str | None = None, **options: Any
    ) -> None:
        self._portal = Portal()
        self._client = client = Client(base_url, token, **options)
        self.images = RuntimeImages(self._portal, client.images)
        self.snapshots = RuntimeSnapshots(self._portal, client.snapshots)
        self.containers = Containers(self._portal, client.containers)
        self.files = ContainerFiles(self._portal, client.files)
        self.engines = Engines(self._portal, client.engines)
        self.archives = Archives(self._portal, client.archives)
        self.workers = Workers(self._portal, client.workers)
        self.events = Events(self._portal, client.events)
        self.garbage = GarbageCollector(self._portal, client.garbage)
        self.system = System(self._portal, client.system)

    def __enter__(self) -> Self:
        self._portal.open()
        self._portal.run(self._client.__aenter__)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._portal.run(lambda: self._client.__aexit__(None, None, None))
        finally:
            self._portal.close(kind, error, traceback)

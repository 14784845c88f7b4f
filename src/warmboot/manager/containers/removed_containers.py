"""The last containers that were removed, for those who were waiting for them."""

from __future__ import annotations

from collections import OrderedDict
from uuid import UUID

from warmboot.model.container import Container

_MOST = 1000


class RemovedContainers:
    """Each as it was at its end."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[UUID, Container] = OrderedDict()

    def add(self, container: Container) -> None:
        self._by_id[container.id] = container
        while len(self._by_id) > _MOST:
            self._by_id.popitem(last=False)

    def get(self, container_id: UUID) -> Container | None:
        return self._by_id.get(container_id)

    def find(self, ref: str) -> Container | None:
        """The removed container with this id or name; of several, the last."""
        for container in reversed(self._by_id.values()):
            if ref in (str(container.id), container.name):
                return container
        return None

"""The manager's interface for the inside of containers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from warmboot.model.tenants.inside import (
    Change,
    ContainerStats,
    FileStatus,
    HealthReport,
    ProcessTable,
)


class ContainerFiles(Protocol):
    """Of a container that has been created in a VM that is there; ``ref`` as for containers."""

    async def processes(self, ref: str, ps_arguments: str) -> ProcessTable:
        """What ``ps`` shows of it. ``Conflict`` if it does not run."""
        ...

    async def stats(self, ref: str) -> ContainerStats:
        """What it uses; this takes a second or two. ``Conflict`` if it does not run."""
        ...

    async def health(self, ref: str) -> HealthReport:
        """What its health check has found, with its last runs."""
        ...

    async def changes(self, ref: str) -> Sequence[Change]:
        """What is not as its image has it."""
        ...

    async def status(self, ref: str, path: str) -> FileStatus:
        """``NotFound`` if there is no such file in it."""
        ...

    def read(self, ref: str, path: str) -> AsyncIterator[bytes]:
        """A file or folder as a tar, in which it has its own name."""
        ...

    async def write(
        self, ref: str, folder: str, tar: AsyncIterator[bytes], *, keep_owners: bool = False
    ) -> None:
        """Unpack a tar in a folder of it; files belong to root, or to whom the tar says."""
        ...

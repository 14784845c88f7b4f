"""The inside of a container: its processes, what it has changed, files in and out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from warmboot.manager.containers.in_guest import InGuest
from warmboot.model.tenants.inside import (
    Change,
    ContainerStats,
    FileStatus,
    HealthReport,
    ProcessTable,
)


class ContainerFiles:
    """Implements ``protocols.ContainerFiles``, by Docker in the container's VM."""

    def __init__(self, in_guest: InGuest) -> None:
        self._in_guest = in_guest

    async def processes(self, ref: str, ps_arguments: str) -> ProcessTable:
        link, docker_id = await self._in_guest.found_running(ref)
        return await link.docker.inside.processes(docker_id, ps_arguments)

    async def stats(self, ref: str) -> ContainerStats:
        link, container = await self._in_guest.found_running(ref)
        return await link.docker.inside.stats(container)

    async def health(self, ref: str) -> HealthReport:
        # ``inspect`` shows it, too, which is nothing to wake a VM for, or to keep it.
        link, container = await self._in_guest.found(ref, wakes=False)
        return await link.docker.inside.health(container)

    async def changes(self, ref: str) -> Sequence[Change]:
        link, docker_id = await self._in_guest.found(ref)
        return await link.docker.inside.changes(docker_id)

    async def status(self, ref: str, path: str) -> FileStatus:
        link, docker_id = await self._in_guest.found(ref)
        return await link.docker.inside.file_status(docker_id, path)

    async def read(self, ref: str, path: str) -> AsyncGenerator[bytes, None]:
        link, docker_id = await self._in_guest.found(ref)
        chunks = link.docker.inside.read_files(docker_id, path)
        with link.readers.taken():
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    yield chunk

    async def write(
        self, ref: str, folder: str, tar: AsyncIterator[bytes], *, keep_owners: bool = False
    ) -> None:
        link, docker_id = await self._in_guest.found(ref)
        with link.sessions.taken():
            inside = link.docker.inside
            await inside.write_files(docker_id, folder, tar, keep_owners=keep_owners)

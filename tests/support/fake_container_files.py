"""The inside of fake containers: the simulated Docker's files, without a VM around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

from tests.support.fake_containers import FakeContainers

from warmboot.docker.containers.inside import file_status_of
from warmboot.docker.containers.usage import stats_of
from warmboot.hypervisors.simulated.vmm.docker import files, render
from warmboot.hypervisors.simulated.vmm.docker.http import HttpError
from warmboot.hypervisors.simulated.vmm.machine import Machine
from warmboot.model.container import ContainerState
from warmboot.model.errors import Conflict, InvalidRequest, NotFound
from warmboot.model.tenants.container_options import Health
from warmboot.model.tenants.inside import (
    Change,
    ChangeKind,
    ContainerStats,
    FileStatus,
    HealthProbe,
    HealthReport,
    ProcessTable,
)


class FakeContainerFiles:
    def __init__(self, containers: FakeContainers) -> None:
        self._containers = containers
        self._kept: dict[UUID, dict[str, Any]] = {}

    async def _record(self, ref: str) -> dict[str, Any]:
        row = await self._containers.get(ref)
        kept = self._kept.setdefault(row.id, {})
        return {
            "id": row.id.hex,
            "files": kept,
            "state": {"Running": row.state is ContainerState.RUNNING, "Pid": 7},
            "config": {"Entrypoint": None, "Cmd": row.spec.command},
        }

    async def processes(self, ref: str, ps_arguments: str) -> ProcessTable:
        try:
            found = files.processes(await self._record(ref), ps_arguments)
        except HttpError as error:
            kind = Conflict if error.status == 409 else InvalidRequest
            raise kind(error.message) from error
        return ProcessTable(tuple(found["Titles"]), tuple(map(tuple, found["Processes"])))

    async def stats(self, ref: str) -> ContainerStats:
        row = await self._containers.get(ref)
        if row.state is not ContainerState.RUNNING:
            raise Conflict(f"{row.name} is not running")
        began = row.started_at or row.created_at
        state = {"Running": True, "StartedAt": began.isoformat().replace("+00:00", "000Z")}
        shape = SimpleNamespace(shape=(row.shape.vcpus, row.shape.memory_mib))
        told = render.stats(
            {"id": row.id.hex, "name": row.name, "state": state}, cast("Machine", shape)
        )
        return stats_of(told)

    async def health(self, ref: str) -> HealthReport:
        row = await self._containers.get(ref)
        if row.health in (None, Health.NONE):
            return HealthReport(Health.NONE)
        failed = int(row.health is Health.UNHEALTHY)
        probe = HealthProbe(row.created_at, row.created_at, failed, "said\n")
        return HealthReport(row.health, failed, (probe,))

    async def changes(self, ref: str) -> Sequence[Change]:
        found = files.changes(await self._record(ref))
        return [Change(one["Path"], ChangeKind.ADDED) for one in found]

    async def status(self, ref: str, path: str) -> FileStatus:
        try:
            return file_status_of(files.status(await self._record(ref), path))
        except HttpError as error:
            raise NotFound(f"there is no {path} in the container") from error

    async def read(self, ref: str, path: str) -> AsyncIterator[bytes]:
        try:
            yield files.packed(await self._record(ref), path)
        except HttpError as error:
            raise NotFound(f"there is no {path} in the container") from error

    async def write(
        self, ref: str, folder: str, tar: AsyncIterator[bytes], *, keep_owners: bool = False
    ) -> None:
        record = await self._record(ref)
        data = b"".join([chunk async for chunk in tar])
        try:
            files.unpack(record, folder, data)
        except HttpError as error:
            kind = NotFound if error.status == 404 else InvalidRequest
            raise kind(f"it cannot be written to {folder}", details=error.message) from error

"""Which VMs of exited containers are parked, and when: without any VM."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from tests.support.eventually import until

from warmboot.manager.containers.parking.exited_vms import ExitedVms
from warmboot.manager.core.background import Work
from warmboot.manager.tenants.tenant_locks import TenantLocks
from warmboot.model.container import Container, ContainerSpec, ContainerState
from warmboot.model.shapes import Shape
from warmboot.system.concurrency import end


def exited(name: str) -> Container:
    now, spec = datetime.now(UTC), ContainerSpec(name, "alpine:3")
    state, shape = ContainerState.EXITED, Shape(1, 512)
    return Container(uuid4(), spec, state, now, shape, vm_id=f"vm-{name}", docker_id="d1")


class Scene:
    """Implements what is asked of the store, the host and of what parks."""

    def __init__(self, *found: Container) -> None:
        self.found, self.parked, self.failed = found, list[str](), list[Work]()
        self.containers, self.vms, self.sessions, self.readers = self, self, self, self
        self.is_empty = True
        self.locks = TenantLocks()

    def exited(self) -> ExitedVms:
        given: Any = (self, self, self.locks, self, 0.01)
        return ExitedVms(*given)

    async def list(self, _: object) -> Sequence[Container]:
        return self.found

    async def get(self, container_id: UUID) -> Container:
        return next(one for one in self.found if one.id == container_id)

    def unresponsive(self, _: str) -> None: ...

    def link(self, _: str) -> Any:
        return self

    async def park(self, container: Container) -> None:
        self.parked.append(container.name)

    def failures(self, work: Work) -> None:
        self.failed.append(work)


async def test_one_that_somebody_is_at_work_on_keeps_no_other_from_being_parked() -> None:
    scene = Scene(exited("web"), exited("db"))
    async with scene.locks.hold(scene.found[0].id):
        putting_away = asyncio.ensure_future(scene.exited().keep_putting_away(scene.failures))
        try:
            await until(lambda: scene.parked.count("db") > 1)
        finally:
            await end(putting_away)
    assert set(scene.parked) == {"db"}
    assert scene.failed == []

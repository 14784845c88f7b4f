"""Which VMs of exited containers are parked, and when: without any VM."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from tests.support.eventually import until

from warmboot.manager.containers.parking.exited_vms import ExitedVms
from warmboot.manager.core.background import Work
from warmboot.manager.tenants.tenant_locks import TenantLocks
from warmboot.model.container import Container, ContainerSpec, ContainerState
from warmboot.model.errors import Conflict, NotSupported, WarmbootError
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
        self.refuses: dict[str, WarmbootError] = {}
        self.kept_output, self.forgotten = self, list[UUID]()
        self.dead = set[str]()
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

    async def is_alive(self, vm_id: str) -> bool:
        return vm_id not in self.dead

    async def park(self, container: Container) -> None:
        self.parked.append(container.name)
        if (why := self.refuses.get(container.name)) is not None:
            raise why

    async def wake(self, container: Container) -> None:
        woken = replace(container, vm_id="vm-2")
        self.found = tuple(woken if one.id == container.id else one for one in self.found)

    async def forget(self, container_id: UUID) -> None:
        self.forgotten.append(container_id)

    async def looks_until(self, enough: Callable[[], bool]) -> None:
        """Have it look at them, none of which has gone, until that is so."""
        putting_away = asyncio.ensure_future(self.exited().keep_putting_away(self.failed.append))
        try:
            await until(enough)
        finally:
            await end(putting_away)
        assert self.failed == []


async def test_one_that_somebody_is_at_work_on_keeps_no_other_from_being_parked() -> None:
    scene = Scene(exited("web"), exited("db"))
    async with scene.locks.hold(scene.found[0].id):
        await scene.looks_until(lambda: scene.parked.count("db") > 1)
    assert set(scene.parked) == {"db"}


async def test_one_whose_vm_cannot_be_parked_is_not_tried_again_and_again() -> None:
    scene = Scene(exited("old"), exited("deep"), exited("db"))
    scene.refuses = {"old": NotSupported("an earlier agent"), "deep": Conflict("100 layers")}
    await scene.looks_until(lambda: scene.parked.count("db") > 2)
    assert (scene.parked.count("old"), scene.parked.count("deep")) == (1, 1)


async def test_one_whose_vm_has_died_is_left_alone() -> None:
    scene = Scene(exited("web"), exited("db"))
    scene.dead.add("vm-web")
    await scene.looks_until(lambda: scene.parked.count("db") > 2)
    assert set(scene.parked) == {"db"}


async def test_the_copy_of_its_log_goes_when_its_vm_is_there_again() -> None:
    scene = Scene(web := replace(exited("web"), vm_id=None), exited("db"))
    for one in scene.found:
        await scene.exited().wake(one.id)
    assert (await scene.get(web.id)).vm_id == "vm-2"
    assert scene.forgotten == [web.id]

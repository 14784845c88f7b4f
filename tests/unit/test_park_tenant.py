"""A park or a wake that fails while the database or the host fails, too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from tests.support.absent import ABSENT

from warmboot.manager.tenants.park_tenant import ParkTenant
from warmboot.manager.tenants.tenant_locks import TenantLocks
from warmboot.model.container import Container, ContainerSpec, ContainerState
from warmboot.model.errors import Conflict, DiskFull, HostError, Unavailable
from warmboot.model.shapes import Shape
from warmboot.model.vm import VmKind


class Scene:
    """Implements what a park asks of the store, the events, the host and the container's kind."""

    def __init__(self, state: ContainerState) -> None:
        now, spec = datetime.now(UTC), ContainerSpec("web", "alpine:3")
        self.found = Container(uuid4(), spec, state, now, Shape(1, 512), vm_id="vm-1")
        self.state: str = state
        self.fails = 0
        """So often the database does not answer."""
        self.vms, self.snapshots, self.boot_logs = self, self, self
        self.records: list[Any] = []
        self.moments: list[Any] = []
        self.deleted: list[Any] = []
        self.stored, self.destroyed = "parking", list[Any]()
        self.collected = 0

    def tenants(self, _: VmKind) -> Scene:
        return self

    async def get(self, _: object) -> Any:
        self._asked()
        return SimpleNamespace(id=self.found.id, state=self.state, vm_id=None, metadata={})

    async def set_state(self, one: object, state: str, **changes: Any) -> None:
        self._asked()
        if one == self.found.id:
            self.state = state
        else:
            self.deleted.append(one)

    async def leased_by(self, _: str) -> list[Any]:
        return self.moments

    def _asked(self) -> None:
        if self.fails:
            self.fails -= 1
            raise Unavailable("the database does not answer")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        yield self.nothing

    async def of_owner(self, _: object) -> list[Any]:
        return self.records

    async def nothing(self, *_: Any, **__: Any) -> None: ...

    hold = let_go = show = keep = remove = emit = nothing

    def ports(self, *_: object) -> tuple[()]:
        return ()

    def unresponsive(self, _: str) -> None: ...

    def give_to(self, *_: object) -> None: ...

    async def lead(self, *_: object) -> None:
        raise Conflict("its port is already taken on this host")

    async def destroy(self, vm_id: str, _: object) -> None:
        if self.state != "parked":
            raise HostError("its folder cannot be removed")
        self.destroyed.append(vm_id)

    async def run(self, *_: Any) -> None:
        """Of the saga's runner, whose undo, or whose end, was not stored."""
        self.state, self.fails = self.stored, 2
        raise DiskFull("the disk is full")

    async def collect_released(self) -> None:
        self.collected += 1

    def parks(self) -> ParkTenant[Any]:
        scene: Any = self
        return ParkTenant[Any](
            *(VmKind.CONTAINER, scene, scene, scene, scene, scene),
            *(ABSENT, ABSENT, ABSENT, ABSENT, TenantLocks(), scene),
        )


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmboot.manager.core.retry_until_stored.FIRST_PAUSE_S", 0.0)


async def test_what_was_not_parked_runs_once_that_can_be_stored() -> None:
    scene = Scene(ContainerState.RUNNING)
    with pytest.raises(DiskFull):
        await scene.parks().park(scene.found)
    assert scene.state == "running"


async def test_what_is_stored_as_parked_is_parked_although_the_journal_does_not_know() -> None:
    scene = Scene(ContainerState.RUNNING)
    scene.stored, scene.records = "parked", [SimpleNamespace(id="vm-1", handle=None, slot=None)]
    await scene.parks().park(scene.found)
    assert (scene.state, scene.destroyed, scene.collected) == ("parked", ["vm-1"], 1)


async def test_what_did_not_wake_is_parked_once_that_can_be_stored() -> None:
    scene = Scene(ContainerState.WAKING)
    scene.fails = 2
    assert await scene.parks().settle(scene.found, set())
    assert scene.state == "parked"


async def test_what_did_not_wake_is_parked_although_its_vm_is_still_there() -> None:
    scene = Scene(ContainerState.WAKING)
    scene.records = [SimpleNamespace(id="vm-2", handle=None, slot=None)]
    assert await scene.parks().settle(scene.found, set())
    assert scene.state == "parked"


async def test_the_moment_of_a_park_that_failed_goes_also_when_it_was_parked_since() -> None:
    scene, former, last = Scene(ContainerState.PARKED), uuid4(), uuid4()
    scene.moments, parks = [last], scene.parks()
    for moment in (former, last):
        operation: Any = SimpleNamespace(data={"moment_id": str(moment), "vm_id": "vm-1"})
        for step in reversed(parks.saga.steps[:2]):
            assert step.undo is not None
            await step.undo(scene.found.id, parks.saga.decode(operation))
    assert (scene.deleted, scene.state) == ([former], "parked")


async def test_a_start_does_not_look_at_all_snapshots_for_each_that_is_parked() -> None:
    scene = Scene(ContainerState.PARKED)
    assert await scene.parks().settle(scene.found, set())
    assert (scene.state, scene.collected) == ("parked", 0)


async def test_one_that_an_earlier_manager_has_woken_and_that_cannot_go_on_is_parked() -> None:
    scene = Scene(ContainerState.WAKING)
    scene.records = [SimpleNamespace(id="vm-2", handle="its process", slot=None)]
    with pytest.raises(Conflict):
        await scene.parks().settle(scene.found, set())
    assert scene.state == "parked"

"""Who is parked without being asked for it, and woken at the start: without any VM."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from warmboot.manager.core.admission import GUESTS_AT_ONCE
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.tenants import park_by_policy
from warmboot.manager.tenants.park_by_policy import ParkByPolicy
from warmboot.manager.tenants.tenant_locks import TenantLocks
from warmboot.model.errors import Conflict, NotSupported, RowUnreadable, WarmbootError
from warmboot.model.usage import ForwardedConnections
from warmboot.model.vm import VmKind


class Tenant:
    """One that asks to be parked at shutdown."""

    kind = VmKind.CONTAINER

    def __init__(self, name: str, state: str) -> None:
        self.id, self.name, self.state = uuid4(), name, state
        self.vm_id = "vm-1" if state in ("running", "paused") else None
        self.spec = self
        self.park_at_shutdown, self.park_after_idle_s = True, 1.0


class Scene:
    """Implements what the policy asks of the store, and of what parks and wakes."""

    def __init__(self, *tenants: Tenant) -> None:
        self.all, self.said = tenants, list[str]()
        self.unreadable = set[str]()
        self.refuses: WarmbootError | None = None
        self.go_on, self.wakes = asyncio.Event(), asyncio.Event()
        self.locks, self.tasks = TenantLocks(), Tasks()

    def policy(self) -> ParkByPolicy[Any]:
        parts: Any = (self, self, self.tasks, self, self.locks, self.held, self)
        return ParkByPolicy(VmKind.CONTAINER, *parts)

    def tenants(self, _: VmKind) -> Scene:
        return self

    async def list(self) -> Sequence[Tenant]:
        return self.all

    async def get(self, tenant_id: UUID) -> Tenant:
        return next(one for one in self.all if one.id == tenant_id)

    @asynccontextmanager
    async def held(self, tenant_id: UUID) -> AsyncIterator[Any]:
        async with self.locks.hold(tenant_id):
            yield await self.get(tenant_id)

    async def unused_s(self, tenants: Sequence[Tenant]) -> Mapping[UUID, float]:
        return {one.id: math.inf for one in tenants}

    def cpu_s(self, _: str) -> float:
        return 0.0

    async def wakes_at_start(self, tenant: Tenant) -> bool:
        if tenant.name in self.unreadable:
            raise RowUnreadable("the row of its moment cannot be read")
        return tenant.state == "parked"

    async def wake(self, tenant: Tenant) -> None:
        self.said.append(f"{tenant.name} wakes")
        self.wakes.set()
        await self.go_on.wait()
        tenant.state, tenant.vm_id = "running", "vm-2"

    async def park(self, tenant: Tenant, **_: Any) -> None:
        if self.refuses is not None:
            raise self.refuses
        if tenant.state != "running":
            raise Conflict(f"{tenant.name} is {tenant.state}")
        if tenant.name in self.unreadable:
            raise OSError("its folder is not there")
        self.said.append(f"{tenant.name} is parked")
        tenant.state, tenant.vm_id = "parked", None


async def woken(scene: Scene) -> None:
    """Nobody is woken any more."""
    for one in scene.all:
        await scene.tasks.ended(f"wake-at-start {one.id}")


async def test_who_still_wakes_when_the_manager_stops_is_as_it_was_parked() -> None:
    scene = Scene(Tenant("web", "parked"), Tenant("db", "running"))
    policy = scene.policy()
    await policy.start()
    await scene.wakes.wait()
    await policy.stop()
    scene.go_on.set()
    await woken(scene)
    assert scene.said == ["web wakes", "db is parked"]
    assert [one.state for one in scene.all] == ["parked", "parked"]
    await policy.start()  # of the next one
    await woken(scene)
    assert [one.state for one in scene.all] == ["running", "running"]


async def test_many_are_woken_as_many_at_once_as_guests_are_booted() -> None:
    scene = Scene(*(Tenant(f"web-{number}", "parked") for number in range(GUESTS_AT_ONCE + 2)))
    await scene.policy().start()
    await scene.wakes.wait()
    for _ in range(100):  # more often than the next one would need to begin
        await asyncio.sleep(0)
    assert len(scene.said) == GUESTS_AT_ONCE
    scene.go_on.set()
    await woken(scene)
    assert {one.state for one in scene.all} == {"running"}


async def test_one_whose_moment_cannot_be_read_keeps_no_other_from_being_woken() -> None:
    scene = Scene(Tenant("web", "parked"), Tenant("db", "parked"))
    scene.unreadable.add("web")
    scene.go_on.set()
    await scene.policy().start()
    await woken(scene)
    assert [one.state for one in scene.all] == ["parked", "running"]


async def test_who_cannot_be_parked_keeps_no_other_from_it() -> None:
    busy = [Tenant(f"busy-{number}", "creating") for number in range(park_by_policy.AT_ONCE)]
    scene = Scene(*busy, Tenant("web", "running"), Tenant("db", "running"))
    scene.unreadable.add("web")
    async with contextlib.AsyncExitStack() as under_way:
        for one in busy:
            await under_way.enter_async_context(scene.locks.hold(one.id))
        stopping = asyncio.create_task(scene.policy().stop())
        for _ in range(100):  # more often than the last one would need
            await asyncio.sleep(0)
        assert scene.said == ["db is parked"]
    await stopping
    assert [one.state for one in scene.all] == ["creating", "creating", "running", "parked"]


async def test_that_a_paused_one_is_not_parked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    log = SimpleNamespace(error=lambda _, *, why: told.append(why))
    monkeypatch.setattr(park_by_policy, "log", log)
    scene = Scene(Tenant("web", "paused"), Tenant("db", "running"))
    await scene.policy().stop()
    assert [one.state for one in scene.all] == ["paused", "parked"]
    assert told == ["web is paused"]


@pytest.fixture
def nobody_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connections(*_: Any) -> ForwardedConnections:
        return ForwardedConnections()

    monkeypatch.setattr(ParkByPolicy, "_connections", connections)


@pytest.mark.usefixtures("nobody_connected")
async def test_one_that_somebody_is_at_work_on_is_not_idle() -> None:
    scene = Scene(web := Tenant("web", "running"))
    policy = scene.policy()
    assert await policy._look(web, math.inf) == 0.0
    assert await policy._look(web, math.inf) > 0.0
    async with scene.locks.hold(web.id):
        assert await policy._look(web, math.inf) == 0.0


@pytest.mark.usefixtures("nobody_connected")
@pytest.mark.parametrize("why", [Conflict("100 layers"), NotSupported("an earlier agent")])
async def test_an_idle_one_that_cannot_be_parked_is_no_failure(why: WarmbootError) -> None:
    scene = Scene(web := Tenant("web", "running"))
    scene.refuses = why
    await scene.policy()._park_idle(web)
    assert web.state == "running"

"""``kill -9`` while a container or an engine is parked or wakes: it runs, or is parked, whole."""

from __future__ import annotations

from typing import Any

import pytest
from tests.faults.test_killed_engines import clear_engines
from tests.faults.test_killed_manager import Die, die, place, reaper
from tests.support.absent import ABSENT
from tests.support.engines import docker, engines_of
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, exited_vms, vmm_pids
from tests.support.prepared_labs import prepare

from warmboot.manager.protocols import Until
from warmboot.manager.tenants.park_tenant import ParkTenant
from warmboot.model.container import Container
from warmboot.model.vm import VmKind

__all__ = ["die", "place", "reaper"]

SAGA = ParkTenant[Container](VmKind.CONTAINER, *[ABSENT] * 11).saga

PARKED = [
    *(("park-container", step.name) for step in SAGA.steps),
    ("vm", "freeze", "after"),  # it stands still, and nobody is there to let it go on
    ("host-vms", "destroy", "before"),  # its VM stands still, and is of no interest
]
WAKING = [
    ("boot-vm", "identity"),  # it has been restored, and is nobody's
    ("events", "append", "before", "engine.woken"),  # it runs, and nobody knows
]


@pytest.mark.parametrize(
    ("work", "at"), [*(("park", at) for at in PARKED), *(("wake", at) for at in WAKING)], ids=str
)
async def test_killed_while_one_is_parked_or_wakes(
    place: Lab, die: Die, work: str, at: tuple[str, ...]
) -> None:
    ready = await prepare(place, snapshot=True)
    await die(work, at)
    async with place.manager() as manager:
        await check(manager.running, ready=ready)
        nouns = (manager.containers, engines_of(manager))
        for found in [one for noun in nouns for one in await noun.list()]:
            noun: Any = nouns[found.kind == "engine"]
            if found.state == "running":
                await runs(manager)
                await noun.park("victim")
            assert (await noun.get("victim")).state == "parked"
            await noun.wake("victim")
        await runs(manager)
        await clear_engines(manager, ready)


@pytest.mark.parametrize(
    ("work", "at"),
    [
        ("put_away", ("put-away-container", "moment")),  # frozen, and nothing says so
        ("put_away", ("host-vms", "destroy", "before")),
        ("fetch_back", ("boot-vm", "identity")),
    ],
    ids=str,
)
async def test_killed_while_an_exited_ones_vm_is_parked_or_wakes(
    place: Lab, die: Die, work: str, at: tuple[str, ...]
) -> None:
    ready = await prepare(place, snapshot=True)
    await die(work, at)
    async with place.manager() as manager:
        await check(manager.running, ready=ready)
        for _ in range(2):
            (found,) = await manager.containers.list(all_states=True)
            assert (found.state, found.exit_code) == ("exited", 3)
            assert await manager.output("victim") == b"said\n"
            await exited_vms(manager).put_away(found.id)
            assert vmm_pids(place.storage) == []
        await manager.containers.start("victim")
        await manager.wait("victim", Until.EXITED)
        assert await manager.output("victim") == b"said\n" * 2
        await manager.containers.delete("victim")
        await check(manager.running, ready=ready)


async def runs(manager: Manager) -> None:
    for engine in await engines_of(manager).list():
        if engine.state == "running":
            async with docker(engine) as client:
                assert (await client.get("/containers/json")).status_code == 200
    for container in await manager.containers.list():
        if container.state == "running":
            assert await manager.output(container.name) == b""

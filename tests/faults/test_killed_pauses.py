"""``kill -9`` while a container or an engine is paused, or goes on: its VM is as it is stored."""

from __future__ import annotations

from typing import Any

import pytest
from tests.faults.test_killed_engines import clear_engines
from tests.faults.test_killed_manager import Die, die, names, place, reaper
from tests.support.engines import docker, engines_of
from tests.support.managers import Lab, Manager
from tests.support.prepared_labs import prepare

from warmboot.model.vm import VmStatus

__all__ = ["die", "place", "reaper"]

PAUSED = [
    ("vm", "pause", "after"),  # it stands still, and nobody knows
    ("containers", "set_state", "after", "paused"),
    ("pauses", "set_clock", "after"),  # it runs, and is stored as paused
    ("events", "append", "after", "container.unpaused"),
    ("engines", "set_state", "before", "paused"),
    ("engine-use-cases", "_show", "before"),  # who asks there is not told yet
]


@pytest.mark.parametrize("at", PAUSED, ids=names)
async def test_killed_while_a_vm_is_paused(place: Lab, die: Die, at: tuple[str, ...]) -> None:
    ready = await prepare(place, snapshot=True)
    await die("pause", at)
    async with place.manager() as manager:
        nouns = (manager.containers, engines_of(manager))
        for found in [one for noun in nouns for one in await noun.list()]:
            noun: Any = nouns[found.kind == "engine"]
            assert found.state in ("running", "paused")
            await stands_still(manager, found.id, is_so=found.state == "paused")
            if found.state == "running":
                await noun.pause("victim")
            await stands_still(manager, found.id, is_so=True)
            await noun.unpause("victim")
            assert (await noun.get("victim")).state == "running"
        for engine in await engines_of(manager).list():
            async with docker(engine) as client:
                assert (await client.get("/containers/json")).status_code == 200
        for container in await manager.containers.list():
            assert await manager.output(container.name) == b""
        await clear_engines(manager, ready)


async def stands_still(manager: Manager, tenant_id: Any, *, is_so: bool) -> None:
    (record,) = await manager.store.vms.of_owner(tenant_id)
    status = await manager.host.vms._machine(record.id).vm.status()
    assert status is (VmStatus.PAUSED if is_so else VmStatus.RUNNING)

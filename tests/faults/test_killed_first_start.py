"""``kill -9`` while a container is started that was only created."""

from __future__ import annotations

import pytest
from tests.faults.test_killed_manager import (
    BOOT,
    RAN,
    Die,
    clear,
    die,
    names,
    place,
    reaper,
    victim_runs,
)
from tests.support.invariants import check
from tests.support.managers import Lab
from tests.support.prepared_labs import prepare

from warmboot.model.container import ContainerState
from warmboot.model.tenants.boot import BootMethod

__all__ = ["die", "place", "reaper"]

FIRST_START = [
    NOT_BEGUN := ("containers", "begin", "after"),  # that is not committed yet
    BOOT[0],
    BOOT[-1],
    RAN,
]


@pytest.mark.parametrize("at", FIRST_START, ids=names)
async def test_killed_while_it_is_started_that_was_only_created(
    place: Lab, die: Die, at: tuple[str, ...]
) -> None:
    """It is created and holds nothing, or its start is finished."""
    ready = await prepare(place, snapshot=True)
    await die("first_start", at)
    async with place.manager() as manager:
        container = await manager.containers.get("victim")
        if at == NOT_BEGUN:
            assert container.state is ContainerState.CREATED
            assert not await manager.store.vms.of_owner(container.id)
            await check(manager.running, ready=ready)
            await manager.containers.start("victim")
        again = await victim_runs(manager)
        assert (again.id, again.boot_method) == (container.id, BootMethod.WARM)
        await clear(manager, ready)

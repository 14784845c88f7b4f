"""What a killed manager leaves running is adopted by the next one."""

from __future__ import annotations

import asyncio
import os
import signal

from tests.faults.test_killed_manager import place, run_victim, victim_runs
from tests.support.invariants import check
from tests.support.managers import FOREVER, Lab, vmm_pids
from tests.support.prepared_labs import prepare

from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState

__all__ = ["place"]


async def test_what_runs_is_adopted_and_goes_on(place: Lab) -> None:
    await prepare(place, snapshot=True)
    before = await run_victim(place)
    pids = vmm_pids(place.storage)
    async with place.manager() as manager:
        container = await manager.containers.get("victim")
        assert container.state is ContainerState.RUNNING
        assert container.vm_id == before.vm_id
        assert vmm_pids(place.storage) == pids
        await check(manager.running)
        await victim_runs(manager)


async def test_a_vm_that_died_meanwhile_is_noticed(place: Lab) -> None:
    await prepare(place, snapshot=True)
    await run_victim(place)
    place.kill_everything()
    async with place.manager() as manager:
        container = await manager.containers.get("victim")
        assert container.state is ContainerState.FAILED
        assert "died while the manager was away" in (container.error or {})["brief"]
        await check(manager.running)


async def test_a_vm_that_does_not_answer_does_not_stop_the_manager(place: Lab) -> None:
    await prepare(place, snapshot=True)
    await run_victim(place)
    (pid,) = vmm_pids(place.storage)
    os.kill(pid, signal.SIGSTOP)
    async with place.manager() as manager:
        container = await manager.containers.get("victim")
        assert container.state is ContainerState.RUNNING
        assert container.error is not None
        assert container.error["code"] == "vm-unresponsive"
        await manager.containers.delete("victim", force=True)
        await check(manager.running)
    assert vmm_pids(place.storage) == []


async def test_an_exit_while_the_manager_is_away_is_seen(place: Lab) -> None:
    await prepare(place)
    async with place.manager() as manager:
        await manager.run("victim", "sh", "-c", "sleep 0.3; exit 7")
        await manager.run("other", *FOREVER)
    await asyncio.sleep(0.5)  # it ends meanwhile
    async with place.manager() as manager:
        container = await manager.wait("victim", Until.EXITED)
        assert container.state is ContainerState.EXITED
        assert container.exit_code == 7
        await check(manager.running)

"""What is parked without being asked for: on the simulated hypervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from tests.manager.test_frozen_engines import add_container, running_in
from tests.manager.test_parked import COUNTING, moments, told
from tests.support.engines import create, engines_of
from tests.support.eventually import eventually
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids
from tests.support.prepared_labs import prepare

from warmboot.host.vms import Vms
from warmboot.manager.engines.users.default_engines import DefaultEngines
from warmboot.manager.tenants import park_by_policy
from warmboot.model.container import ContainerState
from warmboot.model.errors import DiskFull
from warmboot.model.tenants.engine import EngineState


async def run_on(m: Manager) -> None:
    """Return when those that were parked at shutdown have been woken."""

    async def do() -> bool:
        engine, container = await engines_of(m).get("ci"), await m.containers.get("web")
        return (engine.state, container.state) == (EngineState.RUNNING, ContainerState.RUNNING)

    await eventually(do, timeout_s=60)


async def test_who_asks_for_it_is_parked_when_the_manager_stops_and_woken_when_it_starts(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(place, snapshot=True)
    freeze, answer = Vms.freeze_in_use, DefaultEngines.answer
    asked, asking = asyncio.Event(), list[asyncio.Task[set[str]]]()

    async def answers(self: DefaultEngines, call: str, given: Mapping[str, Any]) -> Any:
        asked.set()
        return await answer(self, call, given)

    async def freezes(self: Vms, *given: Any, **options: Any) -> Any:
        """While one is parked, somebody asks for the engine that was parked before."""
        if (await engines_of(m).get("ci")).state is EngineState.PARKED:
            asking.append(asyncio.create_task(running_in(engine)))
            await asked.wait()
        return await freeze(self, *given, **options)

    async with place.manager() as m:
        ran = await m.run("web", *COUNTING, park_at_shutdown=True)
        await m.run("plain", *COUNTING)
        engine = await create(m, park_at_shutdown=True)
        await add_container(engine, "db")
        by_hand = await create(m, "by-hand", park_at_shutdown=True)
        await engines_of(m).park("by-hand")
        monkeypatch.setattr(DefaultEngines, "answer", answers)
        monkeypatch.setattr(Vms, "freeze_in_use", freezes)
    monkeypatch.undo()
    assert len(vmm_pids(place.storage)) == 1, "the plain one runs on, and nobody has woken any"
    async with place.manager() as m:
        assert await asking[0] == {"/db"}
        await run_on(m)
        woken = await m.containers.get("web")
        assert (woken.docker_id, woken.started_at) == (ran.docker_id, ran.started_at)
        assert await m.output("web") == b"begun\n"
        for one in (ran.id, engine.id):
            assert await told(m, one) == ["parking", "parked", "waking", "woken"]
        assert (await engines_of(m).get("by-hand")).state is EngineState.PARKED
        # Once woken it is parked by hand as any other.
        await m.containers.park("web")
        await check(m.running)
    async with place.manager() as m:
        await running_in(engine)
        assert (await m.containers.get("web")).state is ContainerState.PARKED
        assert (await engines_of(m).get("by-hand")).state is EngineState.PARKED
        for name in (engine.name, by_hand.name):
            await engines_of(m).delete(name, force=True)
        for name in ("web", "plain"):
            await m.containers.delete(name, force=True)
        assert await moments(m) == []
        await check(m.running)


@pytest.mark.parametrize("why", ["the disk is full", "it takes too long"])
async def test_what_cannot_be_parked_when_the_manager_stops_runs_on(
    place: Lab, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    await prepare(place, snapshot=True)

    async def freezes(*_: Any, **__: Any) -> None:
        if why == "the disk is full":
            raise DiskFull(why)
        await asyncio.Event().wait()

    async with place.manager() as m:
        ran = await m.run("web", *COUNTING, park_at_shutdown=True)
        engine = await create(m, park_at_shutdown=True)
        monkeypatch.setattr(Vms, "freeze_in_use", freezes)
        monkeypatch.setattr(park_by_policy, "AT_SHUTDOWN_S", 0.5)
    monkeypatch.undo()
    assert len(vmm_pids(place.storage)) == 2
    async with place.manager() as m:
        await run_on(m)
        assert await m.output("web") == b"begun\n"
        assert await running_in(engine) == set()
        for one in (ran.id, engine.id):
            assert await told(m, one) == ["parking", "unparked"]
        assert await moments(m) == []
        await check(m.running)

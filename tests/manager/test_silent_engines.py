"""An engine whose VM is there and does not answer is kept, told, and ended by its user only."""

from __future__ import annotations

import os
import signal

import pytest
from tests.support.engines import create, docker, engines_of
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.host.vm import unresponsive
from warmboot.model.errors import VmUnresponsive
from warmboot.model.tenants.engine import Engine, EngineState


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unresponsive, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(unresponsive, "LONGEST_PAUSE_S", 0.05)


async def until_told(m: Manager, engine: Engine, kind: str) -> None:
    async def told() -> bool:
        return kind in [event.kind for event in await m.events_of(engine.id)]

    await m.until(told, kind)


async def silenced(place: Lab) -> tuple[Engine, int]:
    """One whose VMM was stopped while no manager ran."""
    async with place.manager() as m:
        engine = await create(m)
        async with docker(engine) as client:
            await client.get("/containers/json")
    (pid,) = vmm_pids(place.storage)
    os.kill(pid, signal.SIGSTOP)
    return engine, pid


async def test_a_silent_engine_is_kept_and_adopted_when_it_answers(place: Lab) -> None:
    engine, pid = await silenced(place)
    async with place.manager() as m:
        await until_told(m, engine, "engine.unresponsive")
        found = await engines_of(m).get("ci")
        assert found.state is EngineState.RUNNING
        assert found.error is not None
        assert found.error["code"] == VmUnresponsive.code
        os.kill(pid, signal.SIGCONT)
        await until_told(m, engine, "engine.answering")
        assert (await engines_of(m).get("ci")).error is None
        async with docker(engine) as client:
            assert (await client.get("/containers/json")).json() == []
        os.kill(pid, signal.SIGKILL)

        async def failed() -> bool:
            return (await engines_of(m).get("ci")).state is EngineState.FAILED

        await m.until(failed, "it is watched, too")


async def test_its_user_ends_a_silent_engine(place: Lab) -> None:
    engine, _ = await silenced(place)
    async with place.manager() as m:
        await until_told(m, engine, "engine.unresponsive")
        await engines_of(m).stop("ci", 0)
        assert (await engines_of(m).get("ci")).state is EngineState.STOPPED
        assert vmm_pids(place.storage) == []
        await engines_of(m).delete("ci")


async def test_one_that_falls_silent_while_it_runs_is_told(place: Lab) -> None:
    async with place.manager(unresponsive_after_s=0.3) as m:
        engine = await create(m)
        (pid,) = vmm_pids(place.storage)
        os.kill(pid, signal.SIGSTOP)
        await until_told(m, engine, "engine.unresponsive")
        os.kill(pid, signal.SIGCONT)
        await until_told(m, engine, "engine.answering")

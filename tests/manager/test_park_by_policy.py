"""What is parked without being asked for: on the simulated hypervisor."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.manager.test_frozen_engines import add_container, running_in
from tests.manager.test_parked import COUNTING, moments, told
from tests.support.engines import create, docker, engines_of
from tests.support.eventually import eventually, until
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids
from tests.support.prepared_labs import prepare

from warmboot.host.vms import Vms
from warmboot.manager.engines.users.default_engines import DefaultEngines
from warmboot.manager.tenants import park_by_policy
from warmboot.manager.tenants.park_by_policy import ParkByPolicy
from warmboot.model.container import ContainerState
from warmboot.model.errors import DiskFull
from warmboot.model.tenants.engine import EngineState
from warmboot.model.usage import ForwardedConnections

IDLE_S = 0.5


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while there is nobody to look at yet."""
    monkeypatch.setattr(park_by_policy, "LONGEST_LOOK_S", 0.2)


async def run_on(m: Manager) -> None:
    """Return when those that were parked at shutdown have been woken."""

    async def do() -> bool:
        engine, container = await engines_of(m).get("ci"), await m.containers.get("web")
        return (engine.state, container.state) == (EngineState.RUNNING, ContainerState.RUNNING)

    await eventually(do, timeout_s=60)


async def test_who_asks_for_it_is_parked_when_the_manager_stops_and_woken_when_it_starts(
    place: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await prepare(place, snapshot=True)
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    systemd.bind(str(tmp_path / "told"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "told"))
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
    with systemd:
        assert systemd.recv(100) == b"EXTEND_TIMEOUT_USEC=360000000", "it may take its time"
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


async def until_state(m: Manager, state: str) -> None:
    async def is_so() -> bool:
        engine, container = await engines_of(m).get("ci"), await m.containers.get("web")
        return (engine.state, container.state) == (state, state)

    await eventually(is_so, timeout_s=120)


@pytest.mark.usefixtures("looks_often")
async def test_who_is_not_used_is_parked_and_who_is_in_use_is_not(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        await m.run("web", *COUNTING, park_after_idle_s=IDLE_S)
        engine = await create(m, park_after_idle_s=IDLE_S)
        await m.run("plain", *COUNTING)
        await until_state(m, "parked")
        assert (await m.containers.get("plain")).state is ContainerState.RUNNING
        # A stream is use, for as long as it goes on, however little is told in it.
        await m.containers.wake("web")
        log: Any = m.containers.logs("web", follow=True)
        async with (
            contextlib.aclosing(log),
            docker(engine) as client,
            client.stream("GET", "/events") as events,
        ):
            assert (await anext(log)).data == b"begun\n"
            assert events.status_code == 200  # it was woken for that
            looks = CountedLooks(monkeypatch)
            await looks.seen(8, "ci")  # two of its times
            await looks.seen(8, "web")
            await until_state(m, "running")
        await until_state(m, "parked")
        await check(m.running)
    async with place.manager() as m:  # it is not woken by that
        assert (await engines_of(m).get("ci")).state is EngineState.PARKED
        assert (await m.containers.get("web")).state is ContainerState.PARKED


class CountedLooks:
    """How often some were looked at."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        look, self.counts = ParkByPolicy._look, Counter[str]()

        async def looks(of: ParkByPolicy[Any], tenant: Any, unused_s: float) -> float:
            self.counts[tenant.name] += 1
            return await look(of, tenant, unused_s)

        patch.setattr(ParkByPolicy, "_look", looks)

    async def seen(self, times: int, name: str) -> None:
        wanted = self.counts[name] + times
        await until(lambda: self.counts[name] >= wanted)


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("by", ["a request", "a connection"])
async def test_who_comes_while_one_is_being_parked_for_idleness_has_it_run_on(
    place: Lab, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    await prepare(place, snapshot=True)
    freeze, asking = Vms.freeze_in_use, list[asyncio.Task[set[str]]]()

    async def comes(self: Vms, *given: Any, **options: Any) -> Any:
        frozen = await freeze(self, *given, **options)
        patch.setattr(ParkByPolicy, "_park_idle", lambda *_: nothing())  # not again
        if by == "a connection":
            connected = ForwardedConnections(False, frozenset({"6 127.0.0.1:1 127.0.0.1:2"}))
            patch.setattr(Vms, "connections", lambda *_: nothing(connected))
        else:
            asking.append(asyncio.create_task(running_in(engine)))
            await eventually(front_has_seen_it, timeout_s=60)
        return frozen

    async def front_has_seen_it() -> bool:
        return (await m.host.front.unused_s())[str(engine.id)] == 0

    async with place.manager() as m:
        engine = await create(m, park_after_idle_s=IDLE_S)
        with monkeypatch.context() as patch:
            patch.setattr(Vms, "freeze_in_use", comes)

            async def runs_on() -> bool:
                return await told(m, engine.id) == ["parking", "unparked"]

            await eventually(runs_on, timeout_s=120)
            if by == "a request":
                assert await asking[0] == set()
        assert await moments(m) == []
        await check(m.running)


async def nothing(but: Any = None) -> Any:
    return but

"""An address of its own for each engine, at which all answers that its Docker has published."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network

import pytest
from tests.support.engines import create, create_container, docker, engines_of
from tests.support.managers import TIMEOUT_S, Lab, Manager, eventually
from tests.support.port_network import PortNetwork
from tests.support.ports import free_port

from warmboot.bootstrap import host as wiring
from warmboot.hypervisors.base import Hypervisor
from warmboot.manager.engines.engine_ports import EnginePorts
from warmboot.manager.engines.ports import own_ports
from warmboot.manager.protocols import EngineUntil
from warmboot.model.errors import HostError, InvalidRequest
from warmboot.model.runtime_snapshot import ANSWERED
from warmboot.model.tenants.engine import Engine
from warmboot.settings import Settings

pytestmark = pytest.mark.usefixtures("port_network")

LOOPBACK = IPv4Network("127.213.0.0/20")
"""Where addresses are, of the subnet 10.213.0.0/20."""


@pytest.fixture
async def manager(place: Lab) -> AsyncIterator[Manager]:
    async with place.manager() as running:
        yield running
        await remove_all(running)


async def remove_all(m: Manager) -> None:
    for engine in await engines_of(m).list():
        await engines_of(m).delete(str(engine.id), force=True)


def answering(m: Manager, engine: Engine) -> set[tuple[str, int]]:
    """At its own address."""
    assert isinstance(m.host.network, PortNetwork)
    return m.host.network.own.get(engine.address, set())


async def until_answering(m: Manager, engine: Engine, *ends: tuple[str, int]) -> None:
    async def look() -> bool:
        return answering(m, engine) == set(ends)

    await eventually(look, f"{ends} and nothing else answers at {engine.address}")


def bound(number: int, address: str = "") -> dict[str, list[dict[str, str]]]:
    return {"80/tcp": [{"HostIp": address, "HostPort": str(number)}]}


async def start_inside(m: Manager, engine: Engine, name: str, number: int) -> str:
    """A container that is started by who holds Docker's socket in the VM; its id."""
    link = m.host.vms.link(str(engine.vm_id))
    docker_inside = link.docker
    async with docker(engine) as client:
        await create_container(client, name, bound(number))
        container = str((await client.get(f"/containers/{name}/json")).json()["Id"])
    await docker_inside.start(container)
    return container


async def test_it_is_the_engines_while_that_is_there(place: Lab) -> None:
    async with place.manager() as m:
        one, two = await create(m, "one"), await create(m, "two")
        assert {IPv4Address(each.address) in LOOPBACK for each in (one, two)} == {True}
        assert one.address != two.address
    async with place.manager() as m:
        await engines_of(m).stop("one")
        await engines_of(m).start("one")
        again = await engines_of(m).wait("one", EngineUntil.RUNNING, TIMEOUT_S)
        assert again.address == one.address
        await remove_all(m)


async def test_there_are_as_many_engines_as_addresses(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = IPv4Network("127.213.0.0/30")
    monkeypatch.setattr(PortNetwork, "engine_network", few)
    both = [await create(manager, name) for name in ("one", "two")]
    assert {engine.address for engine in both} == {"127.213.0.1", "127.213.0.2"}
    with pytest.raises(HostError, match="all 2 addresses"):
        await create(manager, "three")
    await engines_of(manager).delete("one", force=True)
    assert (await create(manager, "three")).address == both[0].address


@pytest.mark.parametrize("before", ["", "127.77.0.1"], ids=["none", "of-another-subnet"])
async def test_an_engine_of_before_gets_one_when_the_manager_starts(
    place: Lab, before: str
) -> None:
    number = free_port()
    async with place.manager() as m:
        engine = await create(m)
        async with docker(engine) as client:
            await create_container(client, "web", bound(number))
            await client.post("/containers/web/start")
        await m.store.engines.update(engine.id, address=before)
    async with place.manager() as m:
        engine = await engines_of(m).get("ci")
        assert IPv4Address(engine.address) in LOOPBACK
        await until_answering(m, engine, ("tcp", number))
        await remove_all(m)


async def test_what_is_published_answers_there_while_it_runs(manager: Manager) -> None:
    engine, number = await create(manager), free_port()
    async with docker(engine) as client:
        await create_container(client, "web", bound(number))
        assert answering(manager, engine) == set()
        await client.post("/containers/web/start")
        assert answering(manager, engine) == {("tcp", number)}
        await client.post("/containers/web/stop?t=0")
        await until_answering(manager, engine)


async def test_it_is_the_number_that_docker_says(manager: Manager) -> None:
    engine = await create(manager)
    async with docker(engine) as client:
        await create_container(client, "web", {"80/tcp": [{}], "53/udp": [{}]})
        await client.post("/containers/web/start")
        described = (await client.get("/containers/web/json")).json()
    said = {
        (port.partition("/")[2], int(bindings[0]["HostPort"]))
        for port, bindings in described["NetworkSettings"]["Ports"].items()
    }
    assert len(said) == 2
    assert answering(manager, engine) == said


async def test_two_engines_have_the_same_number_at_their_own_addresses(manager: Manager) -> None:
    number = free_port()
    engines = [await create(manager, name) for name in ("one", "two")]
    for engine in engines:
        async with docker(engine) as client:
            await create_container(client, "web", bound(number, engine.address))
            assert (await client.post("/containers/web/start")).status_code == 204
        assert answering(manager, engine) == {("tcp", number)}
    with socket.create_server(("127.0.0.1", number)):
        pass  # nobody has it there
    async with docker(engines[0]) as client:
        await client.delete("/containers/web?force=1")
        await until_answering(manager, engines[0])
    assert answering(manager, engines[1]) == {("tcp", number)}


async def test_what_others_have_on_the_host_answers_there_and_is_told_once(
    manager: Manager,
) -> None:
    engine = await create(manager)
    number = free_port()
    with socket.create_server(("127.0.0.1", number)):
        container = await start_inside(manager, engine, "traefik", number)
        await until_answering(manager, engine, ("tcp", number))
        told = [e for e in await manager.events_of(engine.id) if e.kind == "engine.port-taken"]
        assert len(told) == 1

    async def told_as_free() -> bool:
        kinds = [event.kind for event in await manager.events_of(engine.id)]
        return kinds.count("engine.port-free") == 1

    await eventually(told_as_free, "it is led on the host as well, when that is free again")
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", number)).close()
    async with docker(engine) as client:
        await client.post(f"/containers/{container}/stop?t=0")
    await until_answering(manager, engine)
    socket.create_server(("127.0.0.1", number)).close()


async def test_what_others_have_on_the_host_answers_there_through_a_restart_and_wakes_it(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = free_port()
    with socket.create_server(("127.0.0.1", number)):
        async with place.manager() as m:
            engine = await create(m)
            await start_inside(m, engine, "traefik", number)
            await until_answering(m, engine, ("tcp", number))
        followed = asyncio.Event()

        async def follow(*_: object) -> None:
            followed.set()

        monkeypatch.setattr(EnginePorts, "_follow", follow)
        async with place.manager() as m:
            await followed.wait()  # it is adopted, and nobody has looked at its containers since
            assert answering(m, engine) == {("tcp", number)}
            await engines_of(m).park("ci")
            (moment_id,) = await m.store.snapshots.leased_by(str(engine.id))
            noted = (await m.store.snapshots.get(moment_id)).metadata[ANSWERED]
            assert [(one["host_ip"], one["host_port"]) for one in noted] == [
                (engine.address, number)
            ]
            told = [event.kind for event in await m.events_of(engine.id)]
            assert told.count("engine.port-taken") == 1
            await remove_all(m)


async def test_a_docker_of_a_users_tells_of_few_ports_that_are_taken(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_ports, "MOST_TOLD", 2)
    engine = await create(manager)
    others = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    numbers = [other.getsockname()[1] for other in others]
    for number in numbers:
        await start_inside(manager, engine, f"web-{number}", number)
    await until_answering(manager, engine, *(("tcp", number) for number in numbers))
    for other in others:
        other.close()
    told = [e for e in await manager.events_of(engine.id) if e.kind == "engine.port-taken"]
    assert len(told) == 2


def opened(m: Manager) -> list[set[int]]:
    """Ports of the host, by the guests that may reach some."""
    assert isinstance(m.host.network, PortNetwork)
    return list(m.host.network.opened.values())


async def test_ports_of_the_host_are_opened_to_the_engine_that_asked_for_them(place: Lab) -> None:
    async with place.manager() as m:
        await create(m, "none")
        assert opened(m) == []
        await create(m, host_ports=(5000, 5001))
        assert opened(m) == [{5000, 5001}]
    async with place.manager() as m:
        assert opened(m) == [{5000, 5001}], "whoever starts finds all of them closed"
        await engines_of(m).stop("ci")
        await engines_of(m).start("ci")
        await engines_of(m).wait("ci", EngineUntil.RUNNING, TIMEOUT_S)
        assert opened(m) == [{5000, 5001}] * 2, "in its new VM, too"
        await remove_all(m)


async def test_without_a_network_no_port_of_the_host_can_be_opened(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(settings: Settings, _: Hypervisor) -> None:
        return None

    monkeypatch.setattr(wiring, "_network_of", none)
    async with place.manager() as m:
        with pytest.raises(InvalidRequest, match="no network"):
            await create(m, host_ports=(5000,))


async def test_ports_of_what_comes_up_with_an_engine_are_there_when_it_runs(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is waited for no longer, whenever those who follow its containers come to that."""
    await manager.snapshot()
    source, number = await create(manager), free_port()
    async with docker(source) as client:
        await create_container(client, "web", bound(number))
        assert (await client.post("/containers/web/start")).status_code == 204
    await engines_of(manager).snapshot("ci", "seeded")
    monkeypatch.setattr(EnginePorts, "follow", lambda *_, **__: None)
    made = await create(manager, "copy", snapshot="seeded")
    assert answering(manager, made) == {("tcp", number)}
    assert made.stages[-1].name == "ports"


async def test_it_answers_again_after_a_restart_of_the_manager(place: Lab) -> None:
    number = free_port()
    async with place.manager() as m:
        engine = await create(m)
        async with docker(engine) as client:
            await create_container(client, "web", bound(number))
            await client.post("/containers/web/start")
    async with place.manager() as m:
        await until_answering(m, engine, ("tcp", number))
        await remove_all(m)

"""Ports that containers in an engine publish: where their client believes them to be."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.engines import create, create_container, docker, engines_of
from tests.support.managers import TIMEOUT_S, Lab, Manager, eventually, front_pids
from tests.support.port_network import PortNetwork
from tests.support.ports import free_port

from warmboot.manager.engines import engine_ports
from warmboot.manager.engines.ports import privileged_ports
from warmboot.manager.protocols import EngineUntil
from warmboot.model.tenants.engine import Engine, EngineSpec

pytestmark = pytest.mark.usefixtures("port_network")

NOBODY = 65534


@pytest.fixture
async def manager(place: Lab) -> AsyncIterator[Manager]:
    async with place.manager() as running:
        yield running
        for engine in await engines_of(running).list():
            await engines_of(running).delete(str(engine.id), force=True)


def is_free(number: int, address: str = "127.0.0.1", kind: int = socket.SOCK_STREAM) -> bool:
    with socket.socket(type=kind) as probe:
        try:
            probe.bind((address, number))
        except OSError:
            return False
    return True


def bound(number: int, address: str = "") -> dict[str, list[dict[str, str]]]:
    return {"80/tcp": [{"HostIp": address, "HostPort": str(number)}]}


async def published(engine: Engine, name: str) -> dict[str, int]:
    """What Docker says of a container's ports."""
    async with docker(engine) as client:
        described = (await client.get(f"/containers/{name}/json")).json()
    bindings = described["HostConfig"]["PortBindings"]
    return {port: int(found[0]["HostPort"]) for port, found in bindings.items() if found}


async def test_a_port_is_there_when_the_start_is_answered_and_goes_with_the_stop(
    manager: Manager,
) -> None:
    engine, number = await create(manager), free_port()
    async with docker(engine) as client:
        assert (await create_container(client, "web", bound(number))).status_code == 201
        assert is_free(number), "it is only created"
        assert (await client.post("/containers/web/start")).status_code == 204
        assert not is_free(number)
        assert (await client.post("/containers/web/stop?t=0")).status_code == 204
        await eventually(lambda: _async(is_free(number)))
        assert (await client.post("/containers/web/start")).status_code == 204
        assert not is_free(number)
        await client.delete("/containers/web?force=1")
        await eventually(lambda: _async(is_free(number)))


async def _async(value: bool) -> bool:
    return value


async def test_a_restart_keeps_the_port(manager: Manager) -> None:
    engine, number = await create(manager), free_port()
    async with docker(engine) as client:
        await create_container(client, "web", bound(number))
        await client.post("/containers/web/start")
        assert (await client.post("/containers/web/restart?t=0")).status_code == 204
        assert not is_free(number)


async def test_a_port_that_is_taken_is_refused_as_docker_refuses_it(manager: Manager) -> None:
    engine, number = await create(manager), free_port()
    with socket.create_server(("127.0.0.1", number)):
        async with docker(engine) as client:
            await create_container(client, "web", bound(number, "127.0.0.1"))
            answer = await client.post("/containers/web/start")
            assert answer.status_code == 500
            message = answer.json()["message"]
            assert message.startswith("driver failed programming external connectivity")
            assert message.endswith(
                f"Bind for 127.0.0.1:{number} failed: port is already allocated"
            )
            found = (await client.get("/containers/web/json")).json()
            assert found["State"]["Status"] == "created"
    async with docker(engine) as client:
        assert (await client.post("/containers/web/start")).status_code == 204


async def test_ports_that_are_left_to_docker_are_the_containers_until_it_is_removed(
    manager: Manager,
) -> None:
    one, two = await create(manager, "one"), await create(manager, "two")
    left = {"80/tcp": [{"HostIp": "", "HostPort": ""}], "53/udp": [{"HostPort": "0"}]}
    for engine in (one, two):
        async with docker(engine) as client:
            assert (await create_container(client, "web", left)).status_code == 201
    found = [await published(engine, "web") for engine in (one, two)]
    assert found[0].keys() == {"80/tcp", "53/udp"}
    assert found[0]["80/tcp"] != found[1]["80/tcp"], "unique on the host, not in an engine"
    number = found[0]["80/tcp"]
    assert not is_free(number)
    assert not is_free(found[0]["53/udp"], kind=socket.SOCK_DGRAM)
    async with docker(one) as client:
        await client.post("/containers/web/start")
        await client.post("/containers/web/stop?t=0")
        assert not is_free(number), "until its removal"
        await client.delete("/containers/web")
        await eventually(lambda: _async(is_free(number)))


async def test_another_container_of_the_same_number_takes_nothing_from_the_one_that_runs(
    manager: Manager,
) -> None:
    engine, number = await create(manager), free_port()
    async with docker(engine) as client:
        await create_container(client, "web", bound(number))
        assert (await client.post("/containers/web/start")).status_code == 204
        await create_container(client, "other", bound(number))
        await client.delete("/containers/other?force=1")
        # What Docker tells comes one after the other: by the end of the next one it was seen.
        await create_container(client, "last", {"80/tcp": [{}]})
        held = (await published(engine, "last"))["80/tcp"]
        assert not is_free(held)
        await client.delete("/containers/last?force=1")
        await eventually(lambda: _async(is_free(held)))
        assert not is_free(number)


async def test_a_reservation_is_one_engines_and_no_others(manager: Manager) -> None:
    one, two = await create(manager, "one"), await create(manager, "two")
    ask = manager.host.front.serve_calls
    reserved = await ask("reserve-ports", {"engine": str(one.id), "ports": [["80/tcp", "", 0, 0]]})
    kept = {"reservation": reserved["reservation"], "container": "0" * 64}
    await ask("keep-ports", {"engine": str(two.id), **kept})
    assert (await engines_of(manager).get("two")).ports == ()
    await ask("keep-ports", {"engine": str(one.id), **kept})
    assert len((await engines_of(manager).get("one")).ports) == 1


async def test_an_engine_does_not_take_all_of_the_hosts_ports(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_ports, "MOST_PORTS", 2)
    engine = await create(manager)
    async with docker(engine) as client:
        refused = await create_container(client, "web", {"80/tcp": [{}, {}, {}]})
        assert refused.status_code == 500
        assert "which is the maximum" in refused.json()["message"]
        assert (await create_container(client, "web", {"80/tcp": [{}, {}]})).status_code == 201


async def test_of_a_range_the_first_free_one_is_taken(manager: Manager) -> None:
    engine, number = await create(manager), free_port()
    with socket.create_server(("127.0.0.1", number)):
        span = {"80/tcp": [{"HostPort": f"{number}-{number + 20}"}]}
        async with docker(engine) as client:
            await create_container(client, "web", span)
    assert number < (await published(engine, "web"))["80/tcp"] <= number + 20


async def test_a_container_that_is_refused_gives_its_ports_back(manager: Manager) -> None:
    engine, number = await create(manager), free_port()
    span = {"80/tcp": [{"HostPort": f"{number}-{number}"}], "81/tcp": [{"HostPort": ""}]}
    async with docker(engine) as client:
        await create_container(client, "web")
        again = await create_container(client, "web", span)
        assert again.status_code == 409
    network = manager.host.network
    assert isinstance(network, PortNetwork)
    assert network.led == {}


async def test_what_a_front_was_in_the_middle_of_when_it_died_is_free_again(
    manager: Manager,
) -> None:
    engine = await create(manager)
    ask = manager.host.front.serve_calls
    reserved = await ask(
        "reserve-ports", {"engine": str(engine.id), "ports": [["80/tcp", "", 0, 0]]}
    )
    (number,) = reserved["numbers"]
    assert not is_free(number)
    (front,) = front_pids(manager.lab.storage)
    os.kill(front, signal.SIGKILL)
    await eventually(lambda: _async(is_free(number)))


@pytest.mark.parametrize("bypassed", [False, True], ids=["its-owner", "who-goes-round-the-front"])
async def test_a_user_publishes_no_port_of_roots(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bypassed: bool
) -> None:
    number = free_port()
    (tmp_path / "first").write_text(f"{number + 1}\n")
    monkeypatch.setattr(privileged_ports, "FIRST_UNPRIVILEGED", tmp_path / "first")
    await manager.image()
    engine_id = await engines_of(manager).create(EngineSpec("ci", NOBODY))
    engine = await engines_of(manager).wait(str(engine_id), EngineUntil.RUNNING, TIMEOUT_S)
    network = manager.host.network
    assert isinstance(network, PortNetwork)
    async with docker(engine) as client:
        await create_container(client, "web", bound(number))
        if bypassed:
            await manager.host.vms.link(str(engine.vm_id)).docker.start("web")
        else:
            refused = await client.post("/containers/web/start")
            assert refused.status_code == 500
            assert f"Bind for 0.0.0.0:{number} failed: permission denied" in refused.text
            await create_container(client, "own", bound(number, engine.address))
            assert (await client.post("/containers/own/start")).status_code == 204
        own = {("tcp", number)}
        await eventually(lambda: _async(network.own.get(engine.address) == own))
        assert is_free(number)
        (tmp_path / "first").write_text(f"{number}\n")
        await client.post(f"/containers/{'web' if bypassed else 'own'}/stop?t=0")
        assert (await client.post("/containers/web/start")).status_code == 204
        assert not is_free(number)


async def test_ports_outlive_a_restart_of_the_manager(place: Lab) -> None:
    number = free_port()
    async with place.manager() as m:
        engine = await create(m)
        async with docker(engine) as client:
            left = {**bound(number), "81/tcp": [{"HostPort": ""}]}
            await create_container(client, "web", left)
            await client.post("/containers/web/start")
    held = (await published(engine, "web"))["81/tcp"]
    async with place.manager() as m:
        assert not is_free(number)
        assert not is_free(held)
        async with docker(engine) as client:
            await client.post("/containers/web/stop?t=0")
            await eventually(lambda: _async(is_free(number)))
            assert not is_free(held)
        await engines_of(m).delete("ci", force=True)
        await eventually(lambda: _async(is_free(held)))


async def test_what_containers_gave_back_while_there_was_no_manager_is_free_again(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_ports, "LOOK_BACK_S", 0.0)
    async with place.manager() as m:
        engine = await create(m)
        async with docker(engine) as client:
            await create_container(client, "web", {"80/tcp": [{"HostPort": ""}]})
    held = (await published(engine, "web"))["80/tcp"]
    async with docker(engine) as client:
        assert (await client.delete("/containers/web")).status_code == 204
    async with place.manager() as m:
        await eventually(lambda: _async(is_free(held)))
        await eventually(lambda: _no_ports(m))
        await engines_of(m).delete("ci", force=True)


async def _no_ports(m: Manager) -> bool:
    return (await engines_of(m).get("ci")).ports == ()


async def test_a_stopped_engine_has_its_containers_ports_again_when_it_runs(
    manager: Manager,
) -> None:
    engine = await create(manager)
    async with docker(engine) as client:
        await create_container(client, "web", {"80/tcp": [{"HostPort": ""}]})
    number = (await published(engine, "web"))["80/tcp"]
    await engines_of(manager).stop("ci")
    await eventually(lambda: _async(is_free(number)))  # or a connection of somebody has it now
    await engines_of(manager).start("ci")
    await engines_of(manager).wait("ci", EngineUntil.RUNNING, TIMEOUT_S)
    await eventually(lambda: _async(not is_free(number)))


async def test_without_a_manager_containers_without_ports_start_all_the_same(place: Lab) -> None:
    async with place.manager() as m:
        engine = await create(m)
        async with docker(engine) as client:
            assert (await client.get("/containers/json")).json() == []
    async with docker(engine) as client:
        assert (await create_container(client, "plain")).status_code == 201
        assert (await client.post("/containers/plain/start")).status_code == 204
    (front,) = front_pids(place.storage)
    os.kill(front, signal.SIGKILL)

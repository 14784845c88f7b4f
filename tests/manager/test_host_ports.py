"""Published ports: refused before anything is booted, given back by a stop, taken by a start."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.support.archives import chunks_of
from tests.support.managers import Lab, Manager, vmm_pids
from tests.support.ports import free_port

from warmboot.docker.tiny_image import image_archive
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState, PortMapping
from warmboot.model.errors import Conflict, WarmbootError
from warmboot.model.tenants.container_options import ContainerOptions

pytestmark = pytest.mark.usefixtures("port_network")


@pytest.fixture
async def manager(place: Lab) -> AsyncIterator[Manager]:
    async with place.manager() as running:
        await running.image()
        yield running
        for container in await running.containers.list(all_states=True):
            await running.containers.delete(str(container.id), force=True)


@pytest.fixture
def port() -> PortMapping:
    return PortMapping(80, free_port())


def is_free(mapping: PortMapping) -> bool:
    kind = socket.SOCK_STREAM if mapping.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(type=kind) as probe:
        try:
            probe.bind((mapping.host_ip, mapping.host_port))
        except OSError:
            return False
    return True


async def refused(manager: Manager, name: str, *ports: PortMapping) -> WarmbootError:
    with pytest.raises(Conflict) as caught:
        await manager.create(name, ports=ports)
    assert caught.value.resolution
    return caught.value


async def test_a_stopped_container_gives_its_ports_back(
    manager: Manager, port: PortMapping
) -> None:
    assert (await manager.run("web", ports=(port,))).ports == (port,)
    assert not is_free(port)
    await manager.containers.stop("web", 1)
    assert is_free(port)
    assert (await manager.containers.get("web")).ports == ()
    assert (await manager.run("next", ports=(port,))).ports == (port,)


async def test_one_that_ends_by_itself_gives_them_back(manager: Manager, port: PortMapping) -> None:
    await manager.run("web", "true", ports=(port,))
    await manager.wait("web", Until.EXITED)
    assert is_free(port)


async def test_a_start_takes_them_again(manager: Manager, port: PortMapping) -> None:
    await manager.run("web", ports=(port, PortMapping(81)))
    await manager.containers.stop("web", 1)
    await manager.containers.start("web")
    first, second = (await manager.containers.get("web")).ports
    assert first == port
    assert second.host_port
    assert not is_free(port)
    await manager.containers.restart("web", 1)
    assert (await manager.containers.get("web")).ports[0] == port


async def test_a_start_says_who_has_them(manager: Manager, port: PortMapping) -> None:
    await manager.run("web", ports=(PortMapping(81), port))
    await manager.containers.stop("web", 1)
    await manager.run("next", ports=(port,))
    with pytest.raises(Conflict) as caught:
        await manager.containers.start("web")
    assert caught.value.details == "the container next has it"
    web = await manager.containers.get("web")
    assert (web.state, web.ports) == (ContainerState.EXITED, ())


async def test_a_port_of_a_container_is_refused_before_a_vm_is_booted(
    manager: Manager, port: PortMapping
) -> None:
    await manager.run("web", ports=(port,))
    there = vmm_pids(manager.lab.storage)
    everywhere = PortMapping(90, port.host_port, "0.0.0.0")
    for wanted in (port, everywhere):
        error = await refused(manager, "next", PortMapping(90), wanted)
        assert error.brief == f"port {wanted.host_end} is already taken on this host"
        assert error.details == "the container web has it"
    assert vmm_pids(manager.lab.storage) == there
    assert len(await manager.containers.list(all_states=True)) == 1


async def test_of_two_at_once_one_is_refused(manager: Manager, port: PortMapping) -> None:
    names = ("one", "two", "three")
    asked = (manager.create(name, ports=(port,)) for name in names)
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Conflict", "Conflict", "UUID"]


async def test_a_port_of_a_program_is_refused_before_a_vm_is_booted(manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        await refused(manager, "web", PortMapping(80, server.getsockname()[1]))
    assert vmm_pids(manager.lab.storage) == []
    assert await manager.containers.list(all_states=True) == ()


async def test_a_start_after_the_vm_died_is_refused_like_that_too(
    manager: Manager, port: PortMapping
) -> None:
    await manager.run("web", ports=(port,))
    await manager.containers.stop("web", 1)
    manager.lab.kill_everything()
    await manager.run("next", ports=(port,))
    with pytest.raises(Conflict, match="already taken"):
        await manager.containers.start("web")


async def test_the_next_manager_holds_ports_of_those_that_run(
    place: Lab, port: PortMapping
) -> None:
    other = PortMapping(80, free_port(), protocol="udp")
    async with place.manager() as first:
        await first.image()
        await first.run("web", ports=(port,))
        await first.run("ended", ports=(other,))
        await first.containers.stop("ended", 1)
    assert is_free(port)
    async with place.manager() as second:
        assert (is_free(port), is_free(other)) == (False, True)
        assert (await second.containers.get("web")).ports == (port,)
        for name in ("web", "ended"):
            await second.containers.delete(name, force=True)


async def test_in_a_network_of_its_own_its_ports_have_the_numbers_that_the_host_sends_to(
    manager: Manager,
) -> None:
    options = ContainerOptions(dns=("192.0.2.53",))
    container = await manager.run(options=options, ports=(PortMapping(80), PortMapping(53)))
    assert container.vm_id is not None
    described = await manager.host.vms.link(container.vm_id).docker.description("warmboot")
    bindings = described["HostConfig"]["PortBindings"]
    assert bindings == {"80/tcp": [{"HostPort": "80"}], "53/tcp": [{"HostPort": "53"}]}


async def test_of_a_range_the_first_free_port_is_taken(manager: Manager) -> None:
    first = free_port()
    with socket.create_server(("127.0.0.1", first)):
        wanted = PortMapping(80, first, host_port_last=first + 20)
        one = await manager.run("one", ports=(wanted,))
        two = await manager.run("two", ports=(wanted,))
        numbers = [port.host_port for port in (*one.ports, *two.ports)]
        assert first < numbers[0] < numbers[1] <= wanted.host_port_last
        with pytest.raises(Conflict, match="all ports are allocated"):
            await manager.create("three", ports=(replace(wanted, host_port_last=first),))


async def test_the_ports_that_the_image_exposes_are_published_at_every_start(
    manager: Manager,
) -> None:
    content = image_archive("web:1", {"a": b"a"}, {}, ["sleep"], exposed=("80/tcp", "53/udp"))
    archive = await manager.services.archives.upload(chunks_of(content))
    ports = (PortMapping(80),)
    container = await manager.run(image="web:1", archive=archive, ports=ports, publish_all=True)
    assert {(port.container_port, port.protocol) for port in container.ports} == {
        (80, "tcp"),
        (53, "udp"),
    }
    assert all(port.host_port for port in container.ports)
    await manager.containers.stop("web", 0)
    assert (await manager.containers.get("web")).ports == ()
    await manager.containers.start("web")
    assert len((await manager.containers.get("web")).ports) == 2


async def test_ports_of_one_that_was_only_created_are_taken_when_it_is_started(
    manager: Manager,
) -> None:
    number = free_port()
    with socket.create_server(("127.0.0.1", number)):
        wanted = (PortMapping(80, number),)
        await manager.create(ports=wanted, start=False)
        assert (await manager.containers.get("web")).ports == ()
        with pytest.raises(Conflict, match="already taken on this host"):
            await manager.containers.start("web")
        assert (await manager.containers.get("web")).state is ContainerState.CREATED
    await manager.containers.start("web")
    assert (await manager.wait("web", Until.RUNNING)).ports == wanted


async def test_of_a_range_one_is_chosen_that_is_free_when_it_is_started(manager: Manager) -> None:
    number = free_port()
    with socket.create_server(("127.0.0.1", number)):
        span = (PortMapping(80, number, host_port_last=number + 20),)
        await manager.create(ports=span, start=False)
        await manager.containers.start("web")
        (port,) = (await manager.wait("web", Until.RUNNING)).ports
    assert number < port.host_port <= number + 20

"""An engine's own address: its ports answer there, and nothing else of this machine."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tests.host.network_lab import (
    HOST_IP,
    PATIENT_S,
    SECOND_PREFIX,
    Place,
    config,
    foreign,
    guest,
    host,
    world,
)

from warmboot.host.network import Network, NetworkConfig, Slot, links, namespaces, own_route
from warmboot.host.network.rules import nft, upkeep
from warmboot.model.container import PortMapping
from warmboot.model.errors import InvalidRequest, NetworkError

pytestmark = pytest.mark.root

OWN, OTHERS = "127.213.0.7", "127.213.0.8"
"""Of two engines, where the subnet of the network is 10.213.0.0/20."""

WEB = ("tcp", 8080)


@dataclass
class Scene:
    settings: NetworkConfig
    network: Network
    slots: list[Slot]
    guests: list[Place]


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """Two guests, whose port 8080 says who they are. Nobody looks at the rules unless told of a
    change: what a test finds to be wrong is not repaired meanwhile."""
    monkeypatch.setattr(upkeep, "LOOK_S", 3600.0)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wbnet-")))
        await stack.enter_async_context(world())
        settings = config(folder / "state", pool_size=0)
        network = Network(settings)
        await network.start([])
        slots = [await network.acquire() for _ in range(2)]
        guests = [await stack.enter_async_context(guest(slot)) for slot in slots]
        for place, name in zip(guests, ("one", "two"), strict=True):
            await stack.enter_async_context(place.tcp_server(8080, name))
        yield Scene(settings, network, slots, guests)
        await network.stop(keep=False)
        left = Network(settings)
        assert await left.audit() == []


async def refused(place: Place, ip: str, port: int) -> None:
    with pytest.raises(NetworkError) as caught:
        await place.tcp(ip, port)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def sends_loopback_away(place: Place, gateway: str) -> None:
    """Over the network, as no ordinary machine does."""
    sysctl = partial(links.sysctl, "ipv4/conf/all/route_localnet", 1)
    await namespaces.in_thread(sysctl, place.namespace)
    for change in (
        ["del", "table", "local", "127.0.0.0/8", "dev", "lo"],
        ["add", f"{OWN}/32", "via", gateway],
    ):
        status, _, err = await nft.run("ip", "-n", place.namespace.name, "route", *change)
        assert status == 0, err


async def refused_datagram(ip: str, port: int) -> None:
    with await host.bound("0.0.0.0", 0, socket.SOCK_DGRAM) as sender:
        sender.connect((ip, port))
        with pytest.raises((ConnectionRefusedError, PermissionError)):
            async with asyncio.timeout(PATIENT_S):
                sender.send(b"?")
                await asyncio.get_running_loop().sock_recv(sender, 100)


async def test_its_ports_answer_with_the_numbers_that_they_have_in_it(scene: Scene) -> None:
    async with scene.guests[0].udp_server(53, "names"):
        await scene.network.lead_own(scene.slots[0], OWN, {WEB, ("udp", 53)})
        await scene.network.lead_own(scene.slots[1], OTHERS, {WEB})
        assert (await host.tcp(OWN, 8080)).startswith(b"one ")
        assert (await host.tcp(OTHERS, 8080)).startswith(b"two ")
        assert (await host.udp(OWN, 53, b"?")).startswith(b"names ")
    await scene.network.lead_own(scene.slots[0], OWN, {("udp", 53)})
    await refused(host, OWN, 8080)
    assert (await host.tcp(OTHERS, 8080)).startswith(b"two ")


async def test_who_connects_while_its_vm_is_parked_is_answered_by_the_woken_one(
    scene: Scene,
) -> None:
    network, (former, woken) = scene.network, scene.slots
    everywhere, own = PortMapping(8080, 9090, "0.0.0.0"), PortMapping(8080, 8080, OWN)
    await network.publish(former, everywhere)
    await network.lead_own(former, OWN, {WEB})
    asked, may_wake = asyncio.Event(), asyncio.Event()
    wakes = 0

    async def wake() -> None:
        nonlocal wakes
        wakes += 1
        asked.set()
        await may_wake.wait()
        network.give_to(woken, "parked")
        await network.publish(woken, everywhere)
        await network.lead_own(woken, OWN, {WEB})
        await network.let_go("parked")

    await network.hold("parked", (everywhere, own), wake, former)
    await network.unpublish(former)
    ways = [(host, OWN, 8080), (host, "127.0.0.1", 9090), (foreign, HOST_IP, 9090)]
    asking = [asyncio.create_task(way.tcp(ip, port)) for way, ip, port in ways for _ in range(7)]
    await asked.wait()
    may_wake.set()
    answers = await asyncio.gather(*asking)
    assert {answer.partition(b" ")[0] for answer in answers} == {b"two"}
    for way, ip, port in ways:
        assert (await way.tcp(ip, port)).startswith(b"two ")
    assert wakes == 1
    await network.hold("parked", (everywhere, own), wake, woken)
    await network.unpublish(woken)
    await network.let_go("parked")  # it was removed
    for way, ip, port in ways:
        await refused(way, ip, port)


async def test_nothing_else_answers_there(scene: Scene) -> None:
    await scene.network.lead_own(scene.slots[0], OWN, {WEB})
    everywhere = PortMapping(8080, 9090, "0.0.0.0")
    await scene.network.publish(scene.slots[1], everywhere)
    with await host.bound("0.0.0.0", 5353, socket.SOCK_DGRAM):
        with pytest.raises(OSError, match="Cannot assign"):
            await host.bound(OWN, 3333, socket.SOCK_STREAM)
        async with host.tcp_server(2222, "host"), host.tcp_server(3333, "host", OWN, anyway=True):
            assert (await host.tcp("127.0.0.1", 2222)).startswith(b"host ")
            assert (await host.tcp("127.0.0.1", 9090)).startswith(b"two ")
            for address in (OWN, OTHERS):
                for port in (2222, 3333, 9090):
                    await refused(host, address, port)
                await refused_datagram(address, 5353)
            await refused(host, OTHERS, 8080)


async def test_what_another_manager_publishes_everywhere_does_not_answer_there(
    scene: Scene, tmp_path: Path
) -> None:
    second = Network(config(tmp_path, SECOND_PREFIX, "10.214.0.0/20", pool_size=0))
    await second.start([])
    *_, slot = [await second.acquire() for _ in range(3)]  # the guests' names are of its index
    async with guest(slot) as vm, vm.tcp_server(80, "another"):
        await second.publish(slot, PortMapping(80, 9090, "0.0.0.0"))
        assert (await host.tcp("127.0.0.1", 9090)).startswith(b"another ")
        await refused(host, OWN, 9090)
    await second.stop(keep=False)


async def test_a_program_that_has_the_port_on_all_addresses_keeps_no_engine_from_it(
    scene: Scene,
) -> None:
    async with host.tcp_server(8080, "host"):
        await scene.network.lead_own(scene.slots[0], OWN, {WEB})
        assert (await host.tcp(OWN, 8080)).startswith(b"one ")
        assert (await host.tcp("127.0.0.1", 8080)).startswith(b"host ")


async def test_it_is_reached_from_this_machine_alone(scene: Scene) -> None:
    await scene.network.lead_own(scene.slots[0], OWN, {WEB})
    for place, gateway in ((foreign, HOST_IP), (scene.guests[1], scene.slots[1].gateway_ip)):
        await sends_loopback_away(place, gateway)
        with pytest.raises(NetworkError):
            await place.tcp(OWN, 8080, timeout_s=0.5)


async def test_it_is_led_while_no_manager_runs_and_what_ended_then_is_refused(
    scene: Scene,
) -> None:
    slot = scene.slots[0]
    both = [PortMapping(8080, 8080, OWN), PortMapping(8081, 8081, OWN)]
    ended = PortMapping(8081, 8081, "127.0.0.1")
    async with scene.guests[0].tcp_server(8081, "ended"):
        await scene.network.publish(slot, ended)
        await scene.network.lead_own(slot, OWN, {WEB, ("tcp", 8081)})
        await scene.network.stop()
        assert (await host.tcp(OWN, 8080)).startswith(b"one ")
        again = Network(scene.settings)
        await again.start(scene.slots)
        await again.republish(slot, both[:1])
        assert (await host.tcp(OWN, 8080)).startswith(b"one ")
        for address in (OWN, "127.0.0.1"):
            await refused(host, address, 8081)
        await again.lead_own(slot, OWN, set())
        await refused(host, OWN, 8080)
        await again.stop(keep=False)


async def test_nobody_answers_there_while_the_rules_are_gone(scene: Scene) -> None:
    await scene.network.lead_own(scene.slots[0], OWN, {WEB})
    await scene.network.stop()  # nobody puts them back
    await nft.apply("flush ruleset")
    async with (
        host.tcp_server(2222, "host"),
        host.udp_server(2222, "host"),
        host.tcp_server(3333, "host", OWN, anyway=True),
    ):
        assert (await host.tcp("127.0.0.1", 2222)).startswith(b"host ")
        assert (await host.udp("127.0.0.1", 2222, b"?")).startswith(b"host ")
        for port in (2222, 3333, 8080):
            with pytest.raises(NetworkError):
                await host.tcp(OWN, port, timeout_s=0.3)
        with pytest.raises(TimeoutError):
            await host.udp(OWN, 2222, b"?", timeout_s=0.3)
    again = Network(scene.settings)
    await again.start(scene.slots)
    await again.republish(scene.slots[0], [PortMapping(8080, 8080, OWN)])
    assert (await host.tcp(OWN, 8080)).startswith(b"one ")
    await again.stop(keep=False)


async def test_it_is_led_again_when_somebody_has_removed_the_rules(scene: Scene) -> None:
    await scene.network.lead_own(scene.slots[0], OWN, {WEB})
    link = scene.settings.dns_link  # and with it the route
    await namespaces.in_thread(partial(links.delete_link, link))
    assert await scene.network.wrong() == ["host"]
    await nft.apply("flush ruleset")
    async with asyncio.timeout(PATIENT_S):
        await scene.network.repaired()
    assert await namespaces.in_thread(partial(own_route.is_kept, scene.settings))
    assert (await host.tcp(OWN, 8080)).startswith(b"one ")
    async with host.tcp_server(2222, "host"):
        await refused(host, OWN, 2222)


async def test_nobody_publishes_a_port_on_it(scene: Scene) -> None:
    for address in (OWN, OTHERS):
        with pytest.raises(InvalidRequest, match="not an address to publish ports on"):
            await scene.network.publish(scene.slots[0], PortMapping(80, 80, address))

"""Rules that somebody removes: guests reach nothing, and the rules come back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.host.network_lab import (
    FOREIGN_IP,
    HOST_IP,
    METADATA_IP,
    PATIENT_S,
    PREFIX,
    Place,
    config,
    foreign,
    guest,
    host,
    world,
)
from tests.support.eventually import until

from warmboot.host.network import Network, NetworkConfig, Slot, links
from warmboot.host.network.rules import nft
from warmboot.model.container import PortMapping
from warmboot.model.errors import NetworkError

pytestmark = pytest.mark.root

TABLE = f"{PREFIX}_net"
FLUSHES = {
    "everything": "flush ruleset",
    "the-family": "flush ruleset ip",
    "the-table": f"delete table ip {TABLE}",
    "its-rules": f"flush table ip {TABLE}",
}


@pytest.fixture
async def settings() -> AsyncIterator[NetworkConfig]:
    """Of a network on a host of its own, whose kernel checks sources loosely, as Debian's does."""
    with tempfile.TemporaryDirectory(prefix="wbnet-") as folder:
        async with world():
            for scope in ("all", "default"):
                links.sysctl(f"ipv4/conf/{scope}/rp_filter", 2)
            yield config(Path(folder) / "state", pool_size=0)


async def reached(place: Place, ip: str, port: int) -> bytes | None:
    try:
        return await place.tcp(ip, port, timeout_s=0.5)
    except (NetworkError, TimeoutError):
        return None


async def heard(place: Place, target: tuple[str, int], listening: socket.socket) -> bool:
    """Whether a datagram from there gets through, answered or not."""
    loop = asyncio.get_running_loop()
    with await place.bound("0.0.0.0", 0, socket.SOCK_DGRAM) as sender:
        for _ in range(3):
            try:
                await loop.sock_sendto(sender, b"x", target)
            except OSError as error:  # told of an earlier one
                assert error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED)
    try:
        async with asyncio.timeout(0.3):
            await loop.sock_recv(listening, 100)
    except TimeoutError:
        return False
    return True


async def whatever_is_reached(slots: list[Slot], guests: list[Place]) -> set[str]:
    """By the first guest, of all that it must not reach, and of the world."""
    slot, other = slots
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(host.tcp_server(0, "host"))
        await stack.enter_async_context(foreign.tcp_server(80, "world"))
        await stack.enter_async_context(guests[1].tcp_server(80, "guest"))
        listening = stack.enter_context(await host.bound("0.0.0.0", 0, socket.SOCK_DGRAM))
        udp_port = listening.getsockname()[1]
        found = set()
        for name, ip, at in (
            ("host", HOST_IP, port),
            ("host", slot.host_ip, port),
            ("host", slot.gateway_ip, port),
            ("host", "10.213.0.1", port),
            ("guest", other.ns_ip, 80),
            ("metadata", METADATA_IP, 80),
            ("world", FOREIGN_IP, 80),
        ):
            if await reached(guests[0], ip, at):
                found.add(name)
        if await heard(guests[0], (HOST_IP, udp_port), listening):
            found.add("host, by a datagram")
    return found


async def closed_ports_refuse(slot: Slot, place: Place) -> None:
    """The host's view of a guest, 198.18.0.1: nobody there waits for a time limit."""
    with pytest.raises(NetworkError) as caught:
        await place.tcp(slot.gateway_ip, 8080)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    loop = asyncio.get_running_loop()
    with await place.bound("0.0.0.0", 0, socket.SOCK_DGRAM) as sender:
        await loop.sock_connect(sender, (slot.gateway_ip, 8080))
        with pytest.raises(ConnectionRefusedError):
            async with asyncio.timeout(PATIENT_S):
                while True:  # the kernel tells it some times a second
                    await loop.sock_sendall(sender, b"x")
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            await loop.sock_recv(sender, 1)


async def only_the_world_is_reached(slots: list[Slot], guests: list[Place]) -> bool:
    async with foreign.tcp_server(80, "world"):
        await guests[0].tcp(FOREIGN_IP, 80)
    return await whatever_is_reached(slots, guests) <= {"world"}


async def unwatched(
    settings: NetworkConfig, stack: AsyncExitStack
) -> tuple[list[Slot], list[Place]]:
    """Two guests whose manager is gone, on a host with a metadata service."""
    network = Network(settings)
    await network.start([])
    slots = [await network.acquire() for _ in range(2)]
    await nft.run("ip", "route", "add", f"{METADATA_IP}/32", "via", FOREIGN_IP)
    guests = [await stack.enter_async_context(guest(slot)) for slot in slots]
    assert await only_the_world_is_reached(slots, guests)
    await network.stop(keep=True)
    assert await only_the_world_is_reached(slots, guests)
    return slots, guests


@pytest.mark.parametrize("flush", FLUSHES.values(), ids=FLUSHES)
async def test_without_the_rules_of_the_host_a_guest_reaches_nothing(
    settings: NetworkConfig, flush: str
) -> None:
    async with AsyncExitStack() as stack:
        slots, guests = await unwatched(settings, stack)
        await closed_ports_refuse(slots[0], guests[0])
        await nft.apply(flush)
        network = Network(settings)
        assert await whatever_is_reached(slots, guests) == set()
        await closed_ports_refuse(slots[0], guests[0])
        await network.start(slots)
        assert await only_the_world_is_reached(slots, guests)
        await network.stop(keep=False)


async def test_without_the_rules_of_its_namespace_a_guest_reaches_nothing(
    settings: NetworkConfig,
) -> None:
    async with AsyncExitStack() as stack:
        slots, guests = await unwatched(settings, stack)
        await nft.apply("flush ruleset", slots[0].namespace)
        network = Network(settings)
        assert await whatever_is_reached(slots, guests) == set()
        await closed_ports_refuse(slots[0], guests[0])
        await nft.apply("flush ruleset")
        assert await whatever_is_reached(slots, guests) == set()
        await network.start(slots)
        assert await only_the_world_is_reached(slots, guests)
        await network.stop(keep=False)


@pytest.mark.parametrize("taken", ["the-rules-of-its-namespace", "the-routes-of-its-namespace"])
async def test_with_one_line_of_two_gone_a_guest_reaches_nothing_of_the_host(
    settings: NetworkConfig, taken: str
) -> None:
    async with AsyncExitStack() as stack:
        slots, guests = await unwatched(settings, stack)
        inside = slots[0].namespace
        if taken == "the-rules-of-its-namespace":
            await nft.apply("flush ruleset", inside)
        else:
            for priority in ("10", "11"):
                await nft.run(
                    "nsenter", f"--net={inside}", "ip", "rule", "del", "priority", priority
                )
        network = Network(settings)
        assert await whatever_is_reached(slots, guests) <= {"world"}
        await network.start(slots)
        await network.stop(keep=False)


@pytest.mark.parametrize("flush", FLUSHES.values(), ids=FLUSHES)
async def test_the_rules_of_the_host_are_put_back(settings: NetworkConfig, flush: str) -> None:
    network = Network(settings)
    await network.start([])
    slot = await network.acquire()
    async with guest(slot) as vm, vm.tcp_server(80, "guest"), foreign.tcp_server(80, "world"):
        wanted = [PortMapping(80, host_ip="0.0.0.0"), PortMapping(80)]
        anywhere, loopback = [await network.publish(slot, one) for one in wanted]
        assert await network.wrong() == []
        await nft.apply(flush)
        async with asyncio.timeout(PATIENT_S):
            [repair] = await network.repaired()
        assert repair.where == ("host",)
        assert repair.error is None
        assert await network.wrong() == []
        assert await foreign.tcp(HOST_IP, anywhere.host_port)
        assert await host.tcp("127.0.0.1", loopback.host_port)
        assert await vm.tcp(FOREIGN_IP, 80)
        async with host.tcp_server(0, "host") as port:
            assert await reached(vm, HOST_IP, port) is None
    await network.stop(keep=False)


async def test_the_rules_of_a_namespace_are_put_back(settings: NetworkConfig) -> None:
    network = Network(settings)
    await network.start([])
    slot = await network.acquire()
    async with guest(slot) as vm, vm.tcp_server(80, "guest"), foreign.tcp_server(80, "world"):
        mapping = await network.publish(slot, PortMapping(80))
        async with host.tcp_server(0, "registry", ip="127.0.0.1") as port:
            await network.open_host_port(slot, port)
            await nft.apply("flush ruleset", slot.namespace)
            async with asyncio.timeout(PATIENT_S):
                [repair] = await network.repaired()
            assert repair.where == (slot.veth,)
            assert await host.tcp("127.0.0.1", mapping.host_port)
            assert await vm.tcp(FOREIGN_IP, 80)
            assert await vm.tcp(slot.gateway_ip, port)
    await network.stop(keep=False)


async def test_a_slot_whose_network_is_gone_is_named_and_the_others_go_on(
    settings: NetworkConfig,
) -> None:
    network = Network(settings)
    await network.start([])
    broken, whole = [await network.acquire() for _ in range(2)]
    await network.stop(keep=True)
    await nft.run("ip", "netns", "del", broken.namespace.name)
    await network.start([broken, whole])
    assert await network.wrong() == [broken.veth]
    async with guest(whole) as vm, foreign.tcp_server(80, "world"):
        assert await vm.tcp(FOREIGN_IP, 80)
    await network.release(broken)
    assert await network.wrong() == []
    await network.stop(keep=False)


async def test_a_rule_that_is_added_to_ours_is_removed(settings: NetworkConfig) -> None:
    network = Network(settings)
    await network.start([])
    await nft.apply(f"insert rule ip {TABLE} guard accept")
    async with asyncio.timeout(PATIENT_S):
        await network.repaired()
    assert await network.wrong() == []
    await network.stop(keep=False)


async def test_what_we_change_ourselves_is_no_finding(settings: NetworkConfig) -> None:
    network = Network(settings)
    await network.start([])
    slots = [await network.acquire() for _ in range(2)]
    for slot in slots:
        await network.publish(slot, PortMapping(80))
        await network.open_host_port(slot, 9)
        await network.close_host_port(slot, 9)
    await network.release(slots[0])
    assert await network.wrong() == []
    assert network.repairs == 0
    await network.stop(keep=False)


async def test_tables_of_others_may_come_and_go(settings: NetworkConfig) -> None:
    network = Network(settings)
    await network.start([])
    await nft.apply("table inet theirs {\n chain c { type filter hook input priority 0;\n }\n}")
    await nft.apply("delete table inet theirs")
    await nft.apply("flush ruleset")  # told after the others, if they were
    async with asyncio.timeout(PATIENT_S):
        assert [repair.where for repair in await network.repaired()] == [("host",)]
    assert network.repairs == 1
    await network.stop(keep=False)


async def test_forwarding_through_iptables_is_put_back(settings: NetworkConfig) -> None:
    network = Network(settings)
    await network.start([])
    slot = await network.acquire()
    async with guest(slot) as vm, foreign.tcp_server(80, "world"):
        await nft.run("iptables", "-P", "FORWARD", "DROP")  # as Docker does at its start
        async with asyncio.timeout(PATIENT_S):
            assert [repair.where for repair in await network.repaired()] == [("forwarding",)]
        assert await vm.tcp(FOREIGN_IP, 80)
        await nft.run("iptables", "-F")
        async with asyncio.timeout(PATIENT_S):
            await network.repaired()
        assert await vm.tcp(FOREIGN_IP, 80)
    await network.stop(keep=False)


async def test_who_connects_while_the_rules_are_gone_is_sent_away(
    settings: NetworkConfig,
) -> None:
    network = Network(settings)
    await network.start([])
    slot = await network.acquire()
    mapping = await network.publish(slot, PortMapping(80))
    await nft.apply(
        f"delete element ip {TABLE} published {{ 127.0.0.1 . tcp . {mapping.host_port} }}"
    )
    with await host.bound("0.0.0.0", 0, socket.SOCK_STREAM) as client:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENT_S):
            with pytest.raises((ConnectionResetError, ConnectionRefusedError)):
                await loop.sock_connect(client, ("127.0.0.1", mapping.host_port))
                await loop.sock_recv(client, 1)
    await until(lambda: network.repairs == 1)
    await network.stop(keep=False)

"""What gets through between guests, the host and the world, and what does not."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.host.network_lab import (
    FOREIGN,
    FOREIGN_IP,
    HOST_IP,
    METADATA_IP,
    PATIENT_S,
    UPLINK_MTU,
    Place,
    answer,
    config,
    foreign,
    guest,
    host,
    world,
)
from tests.support.eventually import eventually

from warmboot.host.network import Network, Slot, connect, namespaces
from warmboot.host.network.rules import nft
from warmboot.model.container import PortMapping
from warmboot.model.errors import Conflict, NetworkError

pytestmark = pytest.mark.root

RESOLVER_ANSWER = "203.0.113.77"


@dataclass
class Scene:
    network: Network
    slots: list[Slot]
    guests: list[Place]


@pytest.fixture(scope="module")
async def scene() -> AsyncIterator[Scene]:
    """A network with two guests, on a host whose own resolver listens on 127.0.0.53 only."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wbnet-")))
        folder.chmod(0o755)  # dnsmasq reads resolv.conf as a user of its own
        await stack.enter_async_context(world())
        await _start_resolver(folder)
        stack.push_async_callback(_stop_resolver, folder)
        (folder / "resolv.conf").write_text("nameserver 127.0.0.53\n")
        network = Network(replace(config(folder / "state"), resolv_conf=folder / "resolv.conf"))
        await network.start([])
        stack.push_async_callback(network.stop, False)
        slots = [await network.acquire() for _ in range(2)]
        guests = [await stack.enter_async_context(guest(slot)) for slot in slots]
        yield Scene(network, slots, guests)


async def _start_resolver(folder: Path) -> None:
    status, _, err = await nft.run(
        "dnsmasq",
        "--conf-file=/dev/null",
        "--listen-address=127.0.0.53",
        "--bind-interfaces",
        "--no-resolv",
        "--no-hosts",
        f"--address=/warm.test/{RESOLVER_ANSWER}",
        f"--pid-file={folder}/resolver.pid",
    )
    assert status == 0, err


async def _stop_resolver(folder: Path) -> None:
    await nft.run("kill", (folder / "resolver.pid").read_text().strip())


async def unreached(
    place: Place, ip: str, port: int, timeout_s: float = 1.0
) -> BaseException | None:
    """What became of the connection; fails when there was one."""
    with pytest.raises(NetworkError) as caught:
        await place.tcp(ip, port, timeout_s)
    return caught.value.__cause__


async def refused(place: Place, ip: str, port: int) -> None:
    """Told so, and not by a timeout."""
    assert isinstance(await unreached(place, ip, port, PATIENT_S), ConnectionRefusedError)


async def test_a_port_on_all_addresses_is_reached_from_everywhere(scene: Scene) -> None:
    async with scene.guests[0].tcp_server(80, "guest"):
        mapping = await scene.network.publish(scene.slots[0], PortMapping(80, host_ip="0.0.0.0"))
        for ip in ("127.0.0.1", HOST_IP):
            assert (await host.tcp(ip, mapping.host_port)).startswith(b"guest ")
        seen = await foreign.tcp(HOST_IP, mapping.host_port)
        assert seen.startswith(f"guest {FOREIGN_IP}".encode())  # the client's own address
    await scene.network.unpublish(scene.slots[0])


async def test_a_port_on_loopback_is_reached_from_the_host_only(scene: Scene) -> None:
    async with scene.guests[0].tcp_server(80, "guest"):
        mapping = await scene.network.publish(scene.slots[0], PortMapping(80))
        assert (await host.tcp("127.0.0.1", mapping.host_port)).startswith(b"guest ")
        await refused(foreign, HOST_IP, mapping.host_port)
        await refused(host, HOST_IP, mapping.host_port)
    await scene.network.unpublish(scene.slots[0])


async def test_a_port_on_one_address_leads_there_only(scene: Scene) -> None:
    async with scene.guests[0].tcp_server(80, "guest"):
        wanted = PortMapping(80, host_ip=HOST_IP)
        mapping = await scene.network.publish(scene.slots[0], wanted)
        assert (await foreign.tcp(HOST_IP, mapping.host_port)).startswith(b"guest ")
        await refused(host, "127.0.0.1", mapping.host_port)
    await scene.network.unpublish(scene.slots[0])


async def test_a_udp_port_is_reached(scene: Scene) -> None:
    async with scene.guests[0].udp_server(53, "guest"):
        wanted = PortMapping(53, host_ip="0.0.0.0", protocol="udp")
        mapping = await scene.network.publish(scene.slots[0], wanted)
        assert (await host.udp("127.0.0.1", mapping.host_port, b"a")).endswith(b" a")
        said = await foreign.udp(HOST_IP, mapping.host_port, b"b")
        assert said == f"guest {FOREIGN_IP} b".encode()
    await scene.network.unpublish(scene.slots[0])


@pytest.mark.parametrize("where", ["host", "foreign"])
@pytest.mark.parametrize("address", ["any", "one"])
async def test_a_udp_sender_that_was_there_before_is_heard(
    scene: Scene, where: str, address: str
) -> None:
    sender, ip = (host, "127.0.0.1") if where == "host" else (foreign, HOST_IP)
    wanted = PortMapping(53, 45_353, "0.0.0.0" if address == "any" else ip, "udp")
    loop = asyncio.get_running_loop()
    async with scene.guests[0].udp_server(53, "guest"):
        with await sender.bound("0.0.0.0", 0, socket.SOCK_DGRAM) as client:
            for _ in range(2):  # as at its start, and at a restart
                await loop.sock_sendto(client, b"early", (ip, 45_353))
                await scene.network.publish(scene.slots[0], wanted)
                assert (await answer(client, (ip, 45_353), b"late")).endswith(b" late")
                await scene.network.unpublish(scene.slots[0])


async def test_a_taken_port_names_the_program_that_has_it(scene: Scene) -> None:
    with await host.bound("127.0.0.1", 0, socket.SOCK_DGRAM) as taker:
        wanted = PortMapping(53, taker.getsockname()[1], protocol="udp")
        for ask in (
            scene.network.check_free(wanted),
            scene.network.publish(scene.slots[0], wanted),
        ):
            with pytest.raises(Conflict) as caught:
                await ask
            assert f"(process {os.getpid()}) has it" in caught.value.details


async def test_a_udp_client_that_goes_on_sending_is_led_to_the_new_guest(scene: Scene) -> None:
    wanted = PortMapping(53, host_ip="0.0.0.0", protocol="udp")
    async with scene.guests[0].udp_server(53, "first"), scene.guests[1].udp_server(53, "second"):
        mapping = await scene.network.publish(scene.slots[0], wanted)
        await scene.network.unpublish(scene.slots[0])
        with await foreign.bound("0.0.0.0", 0, socket.SOCK_DGRAM) as client:
            for slot, name in zip(scene.slots, (b"first", b"second"), strict=True):
                await scene.network.publish(slot, mapping)
                assert (await answer(client, (HOST_IP, mapping.host_port), b"x")).startswith(name)
                await scene.network.unpublish(slot)


async def test_an_unpublished_port_is_closed(scene: Scene) -> None:
    async with scene.guests[0].tcp_server(80, "guest"):
        mapping = await scene.network.publish(scene.slots[0], PortMapping(80, host_ip="0.0.0.0"))
        await scene.network.unpublish(scene.slots[0])
        await scene.network.unpublish(scene.slots[0])
        await refused(host, "127.0.0.1", mapping.host_port)
        await refused(foreign, HOST_IP, mapping.host_port)


async def test_one_port_of_several_is_given_back(scene: Scene) -> None:
    network, (slot, other) = scene.network, scene.slots
    async with scene.guests[0].tcp_server(80, "guest"), scene.guests[0].udp_server(80, "guest"):
        wanted = PortMapping(80, host_ip="0.0.0.0")
        gone, stays = [await network.publish(slot, wanted) for _ in range(2)]
        udp = await network.publish(slot, replace(gone, protocol="udp"))
        for _ in range(2):
            await network.withdraw(slot, gone)
        await refused(host, "127.0.0.1", gone.host_port)
        await refused(foreign, HOST_IP, gone.host_port)
        assert (await foreign.tcp(HOST_IP, stays.host_port)).startswith(b"guest ")
        assert (await foreign.udp(HOST_IP, udp.host_port, b"x")).endswith(b" x")
        assert await network.publish(other, gone) == gone, "it is free for another guest"
        await network.withdraw(slot, stays)
        await refused(foreign, HOST_IP, stays.host_port)
        inside = await nft.table(config(Path()).table, slot.namespace)
        (led,) = [item["set"] for item in inside if item.get("set", {}).get("name") == "published"]
        assert led["elem"] == [{"concat": ["udp", 80]}], "nothing else leads there"
    for one in (slot, other):
        await network.unpublish(one)


async def test_the_host_reaches_no_unpublished_port_by_the_slot_address(scene: Scene) -> None:
    async with scene.guests[0].tcp_server(80, "guest"):
        await unreached(host, scene.slots[0].ns_ip, 80)


async def test_a_guest_reaches_the_world_under_the_address_of_the_host(scene: Scene) -> None:
    async with foreign.tcp_server(80, "world"), foreign.udp_server(80, "world"):
        said = await scene.guests[0].tcp(FOREIGN_IP, 80)
        assert said.startswith(f"world {HOST_IP} ".encode())
        said = await scene.guests[1].udp(FOREIGN_IP, 80, b"x")
        assert said == f"world {HOST_IP} x".encode()


async def test_a_guest_reaches_the_networks_that_the_host_is_routed_to(scene: Scene) -> None:
    """A private one is as any other, until a table of the host's owner says otherwise."""
    vm, address = scene.guests[0], "10.77.0.1"
    inside = ("nsenter", f"--net={FOREIGN}", "ip", "address", "add", f"{address}/32", "dev", "lo")
    for command in (inside, ("ip", "route", "add", "10.77.0.0/24", "via", FOREIGN_IP)):
        status, _, error = await nft.run(*command)
        assert status == 0, error
    refuses = "type filter hook forward priority 0\n ip daddr 10.77.0.0/24 reject"
    async with foreign.tcp_server(80, "private"):
        assert (await vm.tcp(address, 80)).startswith(f"private {HOST_IP} ".encode())
        await nft.apply(f"table ip owners {{\n chain refuses {{\n {refuses}\n }}\n}}")
        try:
            await refused(vm, address, 80)
            assert (await vm.tcp(FOREIGN_IP, 80)).startswith(b"private ")
        finally:
            await nft.apply("delete table ip owners")


async def test_segments_fit_the_uplink(scene: Scene) -> None:
    async with foreign.tcp_server(80, "world"):
        mss = int((await scene.guests[0].tcp(FOREIGN_IP, 80)).split()[2])
        assert mss <= UPLINK_MTU - 40


async def test_a_guest_reaches_no_other_guest(scene: Scene) -> None:
    first, second = scene.slots
    async with scene.guests[1].tcp_server(80, "guest"):
        mapping = await scene.network.publish(second, PortMapping(80, host_ip="0.0.0.0"))
        for ip in (second.ns_ip, second.host_ip, first.host_ip, first.gateway_ip, HOST_IP):
            for port in (80, mapping.host_port):
                await refused(scene.guests[0], ip, port)
    await scene.network.unpublish(second)


async def test_a_guest_reaches_no_address_of_the_host(scene: Scene) -> None:
    slot = scene.slots[0]
    async with host.tcp_server(0, "host") as port:
        assert (await foreign.tcp(HOST_IP, port)).startswith(b"host ")
        for ip in (HOST_IP, slot.host_ip, slot.gateway_ip, "10.213.0.1"):
            await refused(scene.guests[0], ip, port)


async def test_a_guest_reaches_no_metadata_service(scene: Scene) -> None:
    async with foreign.tcp_server(80, "metadata"):
        await nft.run("ip", "route", "add", f"{METADATA_IP}/32", "via", FOREIGN_IP)
        assert (await host.tcp(METADATA_IP, 80)).startswith(b"metadata ")
        await refused(scene.guests[0], METADATA_IP, 80)


async def test_a_guest_sends_under_no_other_address(scene: Scene) -> None:
    loop = asyncio.get_running_loop()
    with await foreign.bound("0.0.0.0", 80, socket.SOCK_DGRAM) as world_side:
        for source, data in (("10.99.99.99", b"forged"), ("0.0.0.0", b"honest")):
            with await scene.guests[0].bound(source, 0, socket.SOCK_DGRAM) as sender:
                await loop.sock_sendto(sender, data, (FOREIGN_IP, 80))
        async with asyncio.timeout(PATIENT_S):
            assert await loop.sock_recv(world_side, 100) == b"honest"


async def test_a_foreign_host_reaches_no_slot_by_routing_through_the_host(scene: Scene) -> None:
    slot = scene.slots[0]
    async with scene.guests[0].tcp_server(80, "guest"):
        mapping = await scene.network.publish(slot, PortMapping(80))
        route = ["route", "replace", "10.213.0.0/20", "via", HOST_IP]
        await nft.run("ip", "netns", "exec", foreign.namespace.name, "ip", *route)
        await unreached(foreign, slot.ns_ip, 80)
        await unreached(foreign, slot.ns_ip, mapping.host_port)
        with pytest.raises(TimeoutError):
            await foreign.udp("10.213.0.1", 10053, _question("warm.test"), timeout_s=1.0)
    await scene.network.unpublish(slot)


async def test_names_resolve_though_the_resolver_of_the_host_is_on_loopback(scene: Scene) -> None:
    for place, slot in zip(scene.guests, scene.slots, strict=True):
        said = await place.udp(slot.gateway_ip, 53, _question("warm.test"))
        assert said.endswith(socket.inet_aton(RESOLVER_ANSWER))


async def test_names_resolve_over_tcp(scene: Scene) -> None:
    question = _question("warm.test")
    connected = await connect(scene.guests[0].namespace, scene.slots[0].gateway_ip, 53, PATIENT_S)
    reader, writer = await asyncio.open_connection(sock=connected)
    writer.write(struct.pack(">H", len(question)) + question)
    async with asyncio.timeout(PATIENT_S):
        said = await reader.readexactly(*struct.unpack(">H", await reader.readexactly(2)))
    writer.close()
    assert said.endswith(socket.inet_aton(RESOLVER_ANSWER))


async def test_an_opened_host_port_is_reached_by_that_guest_until_it_is_closed(
    scene: Scene,
) -> None:
    slot, other = scene.slots
    async with host.tcp_server(0, "registry", ip="127.0.0.1") as port:
        await refused(scene.guests[0], slot.gateway_ip, port)
        await scene.network.open_host_port(slot, port)
        assert (await scene.guests[0].tcp(slot.gateway_ip, port)).startswith(b"registry ")
        for own_ip in (HOST_IP, "10.213.0.1", slot.host_ip, other.host_ip):
            await refused(scene.guests[0], own_ip, port)
        await refused(scene.guests[1], other.gateway_ip, port)
        for _ in range(2):
            await scene.network.close_host_port(slot, port)
        await refused(scene.guests[0], slot.gateway_ip, port)


async def test_an_opened_host_port_leads_nothing_away_that_is_for_the_world(scene: Scene) -> None:
    slot = scene.slots[0]
    async with host.tcp_server(0, "registry", ip="127.0.0.1") as port:
        await scene.network.open_host_port(slot, port)
        try:
            async with foreign.tcp_server(port, "world"):
                assert (await scene.guests[0].tcp(FOREIGN_IP, port)).startswith(b"world ")
        finally:
            await scene.network.close_host_port(slot, port)


async def test_who_has_ended_its_sending_may_wait_for_an_answer_for_days(scene: Scene) -> None:
    """The kernel gives it a minute; then what the guest sends would be refused as if new."""
    slot = scene.slots[0]

    def followed() -> str:
        return Path("/proc/thread-self/net/nf_conntrack").read_text()

    async def half_closed() -> bool:
        lines = (await namespaces.in_thread(followed, slot.namespace)).splitlines()
        (of_ours,) = [line.split() for line in lines if f"dport={port} " in line]
        return of_ours[5] == "CLOSE_WAIT" and int(of_ours[4]) > 24 * 3600

    listening = await scene.guests[0].bound("0.0.0.0", 0, socket.SOCK_STREAM)
    port = listening.getsockname()[1]
    loop = asyncio.get_running_loop()
    with listening:
        listening.listen()
        with await connect(slot.namespace, slot.guest_ip, port, PATIENT_S) as client:
            served, _ = await loop.sock_accept(listening)
            with served:
                client.shutdown(socket.SHUT_WR)
                assert await loop.sock_recv(served, 1) == b""
                await eventually(half_closed, "it is remembered for more than a day")
                await loop.sock_sendall(served, b"late")
                assert await loop.sock_recv(client, 10) == b"late"


def _question(name: str) -> bytes:
    """A DNS question for an A record (RFC 1035)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)

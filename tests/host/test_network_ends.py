"""What becomes of a guest's connections when it is gone: nobody is left hanging."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.host.network_lab import (
    FOREIGN_IP,
    HOST_IP,
    PATIENT_S,
    Place,
    config,
    foreign,
    guest,
    host,
    world,
)

from warmboot.host.network import Network, NetworkConfig, Slot
from warmboot.host.network.rules import nft
from warmboot.model.container import PortMapping

pytestmark = pytest.mark.root

BROKEN = (ConnectionAbortedError, ConnectionResetError)


@pytest.fixture
async def settings() -> AsyncIterator[NetworkConfig]:
    with tempfile.TemporaryDirectory(prefix="wbnet-") as folder:
        async with world():
            yield config(Path(folder) / "state", pool_size=0)


@dataclass
class Held:
    """Connections to a guest that says nothing, and the port they were made to."""

    slot: Slot
    mapping: PortMapping
    local: list[socket.socket]
    remote: socket.socket


async def connection(
    place: Place, ip: str, port: int, family: int = socket.AF_INET
) -> socket.socket:
    made = await place.bound("0.0.0.0", 0, socket.SOCK_STREAM)
    if family == socket.AF_INET6:  # as Java's: IPv4 on a socket of the other kind
        made.close()
        made = await place.dual_stack()
        ip = f"::ffff:{ip}"
    async with asyncio.timeout(PATIENT_S):
        await asyncio.get_running_loop().sock_connect(made, (ip, port))
    return made


async def hold(network: Network, slot: Slot, vm: Place, stack: AsyncExitStack) -> Held:
    listening = stack.enter_context(await vm.bound("0.0.0.0", 80, socket.SOCK_STREAM))
    listening.listen()
    mapping = await network.publish(slot, PortMapping(80, host_ip="0.0.0.0"))
    port = mapping.host_port
    local = [
        stack.enter_context(await connection(host, ip, port, family))
        for ip, family in (
            ("127.0.0.1", socket.AF_INET),
            (HOST_IP, socket.AF_INET),
            ("127.0.0.1", socket.AF_INET6),
        )
    ]
    return Held(slot, mapping, local, stack.enter_context(await connection(foreign, HOST_IP, port)))


async def is_broken(one: socket.socket) -> bool:
    """At once: well before any time limit of TCP's."""
    try:
        async with asyncio.timeout(PATIENT_S):
            await asyncio.get_running_loop().sock_recv(one, 1)
    except BROKEN:
        return True
    except TimeoutError:
        return False
    raise AssertionError("it ended as if the guest had closed it")


async def is_reset_at_its_next_packet(one: socket.socket) -> bool:
    await asyncio.get_running_loop().sock_sendall(one, b"are you there?")
    return await is_broken(one)


def tracked(*addresses: str) -> list[str]:
    """Lines of the host's connection tracking with one of these addresses."""
    table = Path("/proc/thread-self/net/nf_conntrack").read_text().splitlines()
    return [line for line in table if any(f"={ip} " in line for ip in addresses)]


async def test_connections_to_a_guest_that_is_gone_are_reset(settings: NetworkConfig) -> None:
    network = Network(settings)
    await network.start([])
    slots = [await network.acquire() for _ in range(2)]
    async with AsyncExitStack() as stack:
        guests = [await stack.enter_async_context(guest(slot)) for slot in slots]
        held, others = [
            await hold(network, slot, vm, stack) for slot, vm in zip(slots, guests, strict=True)
        ]
        assert tracked(slots[0].ns_ip)
        await network.release(slots[0])
        assert [await is_broken(one) for one in held.local] == [True] * 3
        assert tracked(slots[0].ns_ip) == []
        assert await is_reset_at_its_next_packet(held.remote)
        # Those of the other guest go on.
        for one in (*others.local, others.remote):
            one.send(b"x")
            with pytest.raises(BlockingIOError):
                one.recv(1)
        assert len(tracked(slots[1].ns_ip)) == 4
    await network.stop(keep=False)


async def test_a_remote_client_is_reset_though_the_host_drops_what_comes_in(
    settings: NetworkConfig,
) -> None:
    """As with a firewall that lets published ports through, and nothing else."""
    network = Network(settings)
    await network.start([])
    slot = await network.acquire()
    async with AsyncExitStack() as stack:
        vm = await stack.enter_async_context(guest(slot))
        held = await hold(network, slot, vm, stack)
        await nft.apply(
            "table inet theirs {\n"
            "chain c { type filter hook input priority 0; policy drop;\n iif lo accept\n }\n}"
        )
        await network.release(slot)
        assert await is_reset_at_its_next_packet(held.remote)
    await network.stop(keep=False)


async def test_a_client_may_connect_again_from_the_same_port(settings: NetworkConfig) -> None:
    network = Network(settings)
    await network.start([])
    first, second = [await network.acquire() for _ in range(2)]
    async with AsyncExitStack() as stack:
        vm = await stack.enter_async_context(guest(first))
        held = await hold(network, first, vm, stack)
        port = held.remote.getsockname()[1]
        await network.release(first)
        assert await is_reset_at_its_next_packet(held.remote)
        held.remote.close()
        other = await stack.enter_async_context(guest(second))
        async with other.tcp_server(80, "second"):
            await network.publish(second, held.mapping)
            with await foreign.bound("0.0.0.0", port, socket.SOCK_STREAM) as again:
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(PATIENT_S):
                    await loop.sock_connect(again, (HOST_IP, held.mapping.host_port))
                    assert (await loop.sock_recv(again, 100)).startswith(b"second")
    await network.stop(keep=False)


async def test_what_a_guest_had_opened_itself_is_forgotten(settings: NetworkConfig) -> None:
    network = Network(settings)
    await network.start([])
    slot = await network.acquire()
    async with guest(slot) as vm, foreign.udp_server(80, "world"), foreign.tcp_server(80, "world"):
        await vm.udp(FOREIGN_IP, 80, b"x")
        await vm.tcp(FOREIGN_IP, 80)
        assert len(tracked(slot.ns_ip)) == 2
        await network.release(slot)
        assert tracked(slot.ns_ip) == []
    await network.stop(keep=False)


async def test_a_server_of_the_host_does_not_wait_for_a_guest_that_is_gone(
    settings: NetworkConfig,
) -> None:
    """As this host's registry, from which a guest pulled when it died."""
    network = Network(settings)
    await network.start([])
    slot = await network.acquire()
    with await host.bound("127.0.0.1", 0, socket.SOCK_STREAM) as registry:
        registry.listen()
        port = registry.getsockname()[1]
        await network.open_host_port(slot, port)
        async with guest(slot) as vm:
            with await connection(vm, slot.gateway_ip, port):
                accepted, _ = await asyncio.get_running_loop().sock_accept(registry)
                with accepted:
                    await network.release(slot)
                    assert await is_broken(accepted)
        assert registry.getsockname()[1] == port  # the one that listens stays
        with await connection(host, "127.0.0.1", port):
            pass
    await network.stop(keep=False)


async def test_a_guest_that_died_while_the_manager_was_away_leaves_nobody_hanging(
    settings: NetworkConfig,
) -> None:
    network = Network(settings)
    await network.start([])
    slot = await network.acquire()
    async with AsyncExitStack() as stack:
        vm = await stack.enter_async_context(guest(slot))
        held = await hold(network, slot, vm, stack)
        await network.stop(keep=True)
        successor = Network(settings)
        await successor.start([])  # in which the slot is not named
        assert [await is_broken(one) for one in held.local] == [True] * 3
        assert await is_reset_at_its_next_packet(held.remote)
        assert tracked(slot.ns_ip) == []
        await successor.stop(keep=False)

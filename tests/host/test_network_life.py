"""Slots and the host's set-up over a manager's life."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.host.network_lab import (
    FOREIGN_IP,
    HOST_IP,
    PREFIX,
    SECOND_PREFIX,
    config,
    foreign,
    guest,
    world,
)
from tests.support.eventually import until

from warmboot.host.network import Network, connect
from warmboot.host.network.rules import nft
from warmboot.model.container import PortMapping
from warmboot.model.errors import Conflict, InvalidRequest, NetworkError

pytestmark = pytest.mark.root

IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@pytest.fixture
async def state_dir() -> AsyncIterator[Path]:
    """A host in a world of its own, and a folder for the network's files."""
    with tempfile.TemporaryDirectory(prefix="wbnet-") as folder:
        async with world():
            yield Path(folder) / "state"


async def rulesets() -> tuple[str, str]:
    _, nftables, _ = await nft.run("nft", "list", "ruleset")
    _, iptables, _ = await nft.run("iptables-save")
    lines = [line for line in iptables.splitlines() if not line.startswith("#")]
    return nftables, "\n".join(lines)


async def test_a_stopped_network_leaves_nothing(state_dir: Path) -> None:
    network = Network(config(state_dir))
    assert await network.audit() == []
    await network.start([])
    slots = [await network.acquire() for _ in range(3)]
    await network.publish(slots[0], PortMapping(80))
    found = await network.audit()
    assert f"namespace {PREFIX}-3" in found
    assert f"link {PREFIX}-dns" in found
    await network.release(slots[1])
    await network.stop(keep=False)
    assert await network.audit() == []
    await network.stop(keep=False)


async def test_release_is_idempotent_and_frees_the_port(state_dir: Path) -> None:
    network = Network(config(state_dir, pool_size=0))
    await network.start([])
    slot = await network.acquire()
    mapping = await network.publish(slot, PortMapping(80))
    for _ in range(2):
        await network.release(slot)
    assert not slot.namespace.exists()
    assert not [name for name in await network.audit() if name.endswith(f"{PREFIX}-{slot.index}")]
    with socket.create_server(("127.0.0.1", mapping.host_port)):
        pass
    again = await network.acquire()
    assert again.index != slot.index
    await network.stop(keep=False)


async def test_the_rules_of_the_user_are_as_before(state_dir: Path) -> None:
    await nft.apply("table inet theirs {\n chain c { type filter hook input priority 0;\n }\n}")
    await nft.run("iptables", "-P", "FORWARD", "DROP")
    await nft.run("iptables", "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
    before = await rulesets()
    assert "theirs" in before[0]
    network = Network(config(state_dir))
    await network.start([])
    slot = await network.acquire()
    await network.publish(slot, PortMapping(80))
    assert await rulesets() != before
    await network.stop(keep=False)
    assert await rulesets() == before


async def test_traffic_passes_under_a_forward_policy_of_drop(state_dir: Path) -> None:
    network = Network(config(state_dir, pool_size=0))
    await network.start([])
    # As when Docker is started after us: the next slot sees to it.
    await nft.run("iptables", "-P", "FORWARD", "DROP")
    slot = await network.acquire()
    async with guest(slot) as vm, vm.tcp_server(80, "guest"), foreign.tcp_server(80, "world"):
        mapping = await network.publish(slot, PortMapping(80, host_ip="0.0.0.0"))
        assert (await foreign.tcp(HOST_IP, mapping.host_port)).startswith(b"guest ")
        assert (await vm.tcp(FOREIGN_IP, 80)).startswith(b"world ")
    await network.stop(keep=False)


async def test_ip_forward_is_set_back(state_dir: Path) -> None:
    network = Network(config(state_dir))
    await network.start([])
    assert IP_FORWARD.read_text() == "1\n"
    await network.stop(keep=True)
    assert IP_FORWARD.read_text() == "1\n"
    successor = Network(config(state_dir))
    await successor.start([])
    await successor.stop(keep=False)
    assert IP_FORWARD.read_text() == "0\n"


async def test_ip_forward_stays_when_it_was_on_or_others_need_it(state_dir: Path) -> None:
    network = Network(config(state_dir))
    IP_FORWARD.write_text("1")
    await network.start([])
    await network.stop(keep=False)
    assert IP_FORWARD.read_text() == "1\n"
    IP_FORWARD.write_text("0")
    await network.start([])
    await nft.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
    await network.stop(keep=False)
    assert IP_FORWARD.read_text() == "1\n"


async def test_a_bridge_of_docker_is_out_of_reach(state_dir: Path) -> None:
    for command in (
        ["ip", "link", "add", "docker0", "type", "bridge"],
        ["ip", "addr", "add", "172.17.0.1/16", "dev", "docker0"],
        ["ip", "link", "set", "docker0", "up"],
    ):
        status, _, err = await nft.run(*command)
        assert status == 0, err
    network = Network(config(state_dir))
    await network.start([])
    slot = await network.acquire()
    async with guest(slot) as vm:
        for ip in ("172.17.0.1", "172.17.0.2"):
            with pytest.raises(NetworkError) as caught:
                await vm.tcp(ip, 80)
            assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    await network.stop(keep=False)


async def test_the_pool_is_refilled(state_dir: Path) -> None:
    network = Network(config(state_dir, pool_size=2))
    await network.start([])
    slots = await asyncio.gather(*(network.acquire() for _ in range(6)))
    assert len({slot.index for slot in slots}) == 6
    assert len({slot.uid for slot in slots}) == 6
    await until(lambda: Path(f"/run/netns/{PREFIX}-8").exists())
    await network.stop(keep=True)
    namespaces = [name for name in await network.audit() if name.startswith("namespace")]
    assert namespaces == [f"namespace {PREFIX}-{slot.index}" for slot in slots]
    await network.start(slots)
    await network.stop(keep=False)


async def test_a_cancelled_request_loses_no_slot(state_dir: Path) -> None:
    network = Network(config(state_dir, pool_size=0))
    await network.start([])
    for delay in (0.0, 0.002, 0.006, 0.012):
        request = asyncio.create_task(network.acquire())
        await asyncio.sleep(delay)
        request.cancel()
        with suppress(asyncio.CancelledError):
            await network.release(await request)
    slot = await network.acquire()
    await network.stop(keep=True)
    namespaces = [name for name in await network.audit() if name.startswith("namespace")]
    assert namespaces == [f"namespace {PREFIX}-{slot.index}"]
    await network.start([])
    await network.stop(keep=False)


async def test_an_exhausted_subnet_says_so(state_dir: Path) -> None:
    network = Network(config(state_dir, subnet="10.213.0.0/29", pool_size=1))
    await network.start([])
    slot = await network.acquire()
    with pytest.raises(NetworkError, match="in use"):
        await network.acquire()
    await network.release(slot)
    assert (await network.acquire()).index == 1
    await network.stop(keep=False)


async def test_a_taken_port_is_a_conflict_that_names_it(state_dir: Path) -> None:
    network = Network(config(state_dir))
    await network.start([])
    slot = await network.acquire()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for host_ip in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(Conflict, match=str(port)) as caught:
                await network.publish(slot, PortMapping(80, port, host_ip))
            assert caught.value.resolution
    mapping = await network.publish(slot, PortMapping(80, port))
    assert mapping.host_port == port
    with pytest.raises(Conflict):
        await network.publish(slot, PortMapping(81, port))
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port)).close()
    with pytest.raises(InvalidRequest):
        await network.publish(slot, PortMapping(80, host_ip="192.0.2.200"))
    await network.stop(keep=False)


async def test_a_second_manager_needs_a_subnet_of_its_own(state_dir: Path) -> None:
    first = Network(config(state_dir))
    await first.start([])
    with pytest.raises(NetworkError, match="subnet"):
        await Network(config(state_dir / "b", prefix=SECOND_PREFIX)).start([])
    second = Network(config(state_dir / "b", prefix=SECOND_PREFIX, subnet="10.214.0.0/24"))
    await second.start([])
    slots = [await first.acquire(), await second.acquire()]
    async with guest(slots[0]) as one, foreign.tcp_server(80, "world"):
        assert (await one.tcp(FOREIGN_IP, 80)).startswith(b"world ")
        with pytest.raises(NetworkError):
            await one.tcp(slots[1].ns_ip, 80, timeout_s=0.5)
    await second.stop(keep=False)
    assert await second.audit() == []
    assert slots[0].namespace.exists()
    await first.stop(keep=False)


async def test_connect_fails_in_time(state_dir: Path) -> None:
    network = Network(config(state_dir))
    await network.start([])
    slot = await network.acquire()
    with pytest.raises(NetworkError, match=r"198\.18\.0\.2:80"):  # nobody has the TAP open
        await connect(slot.namespace, slot.guest_ip, 80, 0.2)
    with pytest.raises(NetworkError):
        await connect(slot.namespace.with_name(f"{PREFIX}-none"), slot.guest_ip, 80, 0.2)
    await network.stop(keep=False)

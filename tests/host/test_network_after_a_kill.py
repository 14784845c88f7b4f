"""What a killed manager leaves of its network is taken over, or removed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.host.network_lab import (
    HOST_IP,
    PREFIX,
    config,
    foreign,
    guest,
    host,
    world,
)
from tests.support.eventually import until

from warmboot.host.network import Network, Slot
from warmboot.host.network.rules import nft
from warmboot.model.container import PortMapping

pytestmark = pytest.mark.root

MANAGER = """
import asyncio, json, sys
from pathlib import Path
from tests.host.network_lab import config
from warmboot.host.network import Network
from warmboot.model.container import PortMapping

async def main():
    network = Network(config(Path(sys.argv[1]), sys.argv[2]))
    await network.start([])
    slots = [await network.acquire() for _ in range(2)]
    ports = [await network.publish(slot, PortMapping(80, host_ip="0.0.0.0")) for slot in slots]
    print(json.dumps([[slot.as_dict(), port.host_port] for slot, port in zip(slots, ports)]))
    sys.stdout.flush()
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
async def state_dir() -> AsyncIterator[Path]:
    """A host in a world of its own, and a folder for the network's files."""
    with tempfile.TemporaryDirectory(prefix="wbnet-") as folder:
        async with world():
            yield Path(folder) / "state"


async def test_after_a_kill_slots_in_use_go_on_and_the_rest_is_removed(state_dir: Path) -> None:
    [(kept, port), (lost, _)] = await _killed_manager(state_dir)
    assert lost.namespace.exists()
    async with guest(kept) as vm, vm.tcp_server(80, "guest"):
        assert (await host.tcp("127.0.0.1", port)).startswith(b"guest ")
        network = Network(config(state_dir, pool_size=0))
        await network.start([kept])
        assert [name for name in await network.audit() if name.startswith("namespace")] == [
            f"namespace {kept.namespace.name}"
        ]
        assert (await foreign.tcp(HOST_IP, port)).startswith(b"guest ")
        with socket.create_server(("127.0.0.1", port)):
            pass  # nobody holds it yet
        mapping = PortMapping(80, port, "0.0.0.0")
        await network.republish(kept, [mapping])
        await network.republish(kept, [mapping])
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port)).close()
        assert (await host.tcp("127.0.0.1", port)).startswith(b"guest ")
        assert (await network.acquire()).index != kept.index
    await network.release(kept)
    await network.stop(keep=False)
    assert await network.audit() == []


async def test_a_port_taken_while_nobody_held_it_still_leads_to_the_guest(state_dir: Path) -> None:
    [(kept, port), _] = await _killed_manager(state_dir)
    network = Network(config(state_dir, pool_size=0))
    await network.start([kept])
    with socket.create_server(("127.0.0.1", port)):
        await network.republish(kept, [PortMapping(80, port, "0.0.0.0")])
        async with guest(kept) as vm, vm.tcp_server(80, "guest"):
            assert (await host.tcp("127.0.0.1", port)).startswith(b"guest ")
    await network.stop(keep=False)


async def test_half_made_slots_are_removed(state_dir: Path) -> None:
    await nft.run("ip", "netns", "add", f"{PREFIX}-5")
    await nft.run("ip", "link", "add", f"{PREFIX}-6", "type", "veth", "peer", "name", "peer6")
    Path(f"/run/netns/{PREFIX}-7").touch()
    network = Network(config(state_dir, pool_size=0))
    await network.start([])
    link, server, table = await network.audit()
    assert (link, table) == (f"link {PREFIX}-dns", f"table ip {PREFIX}_net")
    assert server.startswith("name server ")
    await network.stop(keep=False)


async def test_the_name_server_is_adopted_and_started_again_when_it_dies(state_dir: Path) -> None:
    pid_file = Path(f"/run/warmboot/dns-{PREFIX}/pid")
    network = Network(config(state_dir))
    await network.start([])
    pid = int(pid_file.read_text())
    await network.stop(keep=True)
    await network.start([])
    assert int(pid_file.read_text()) == pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pid_file.exists() and pid_file.read_text().strip() not in ("", str(pid)))
    new = int(pid_file.read_text())
    await network.stop(keep=False)
    assert not pid_file.exists()
    assert _is_dead(new)


async def test_the_name_server_has_a_user_of_its_own_and_no_rights(state_dir: Path) -> None:
    settings = config(state_dir)
    network = Network(settings)
    groups = os.getgroups()
    os.setgroups([*groups, 4])  # a manager may have some, as root's shell has
    try:
        await network.start([])
    finally:
        os.setgroups(groups)
    pid = int(Path(f"/run/warmboot/dns-{PREFIX}/pid").read_text())
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    assert fields["Uid"].split() == [str(settings.uid_base)] * 4
    assert fields["Groups"].split() == []
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(rf"Max file size +{1 << 20} +{1 << 20} ", limits)
    assert re.search(rf"Max address space +{256 << 20} +{256 << 20} ", limits)
    await network.stop(keep=False)


async def test_the_name_server_of_a_version_that_started_it_as_root_is_replaced(
    state_dir: Path,
) -> None:
    state_dir.mkdir(exist_ok=True)
    earlier = state_dir / "dnsmasq.pid"
    settings = config(state_dir)
    await nft.run(
        *("dnsmasq", "--conf-file=/dev/null", f"--pid-file={earlier}", "--port=10053"),
        *("--listen-address=127.0.77.77", "--bind-interfaces", "--no-resolv", "--no-hosts"),
    )
    old = int(earlier.read_text())
    network = Network(settings)
    await network.start([])
    assert _is_dead(old)
    assert not earlier.exists()
    await network.stop(keep=False)


async def test_others_are_spared_where_nobody_can_tell_whose_they_are(state_dir: Path) -> None:
    [(kept, _), (untold, port)] = await _killed_manager(state_dir)
    network = Network(config(state_dir))
    await network.start([kept], spare_others=True)
    assert untold.namespace.exists()
    _, rules, _ = await nft.run("nft", "list", "ruleset")
    assert re.search(rf"\b{port} : {re.escape(untold.ns_ip)}\b", rules)
    assert (await network.acquire()).index not in {kept.index, untold.index}
    await network.stop(keep=True)
    assert untold.namespace.exists()
    await network.start([kept])
    assert not untold.namespace.exists()
    await network.stop(keep=False)


async def _killed_manager(state_dir: Path) -> list[tuple[Slot, int]]:
    """A manager with two published slots, killed without warning."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MANAGER, str(state_dir), PREFIX),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
    finally:
        process.kill()
        await process.wait()
    return [(Slot.from_dict(slot), port) for slot, port in json.loads(line)]


def _is_dead(pid: int) -> bool:
    """Gone, or a zombie that its parent has not reaped."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    return "State:\tZ" in status

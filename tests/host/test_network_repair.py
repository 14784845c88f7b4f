"""What somebody takes away of a running VM's network, made again by the next manager."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.host.network_lab import FOREIGN_IP, PREFIX, config, foreign, guest, host, world

from warmboot.host.network import Network, Slot
from warmboot.host.network.rules import nft
from warmboot.model.container import PortMapping
from warmboot.model.errors import NetworkError

pytestmark = pytest.mark.root


@pytest.fixture
async def state_dir() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wbnet-") as folder:
        async with world():
            yield Path(folder) / "state"


@asynccontextmanager
async def vmm(slot: Slot) -> AsyncIterator[int]:
    """The pid of a process in the slot, as a VMM is."""
    argv = ("nsenter", f"--net={slot.namespace}", "--", "sh", "-c", "echo there; exec sleep 100")
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield process.pid
    finally:
        process.kill()
        await process.wait()


async def delete_namespace(slot: Slot) -> None:
    await nft.run("ip", "netns", "delete", slot.namespace.name)


async def empty_namespaces_file(slot: Slot) -> None:
    """As after an unmount: the name is there, and leads nowhere."""
    await nft.run("umount", str(slot.namespace))


async def delete_link(slot: Slot) -> None:
    await nft.run("ip", "link", "delete", slot.veth)


async def delete_table(slot: Slot) -> None:
    await nft.run("nsenter", f"--net={slot.namespace}", "nft", "flush", "ruleset")


async def delete_all(slot: Slot) -> None:
    await delete_table(slot)
    await delete_link(slot)
    await delete_namespace(slot)


@pytest.mark.parametrize(
    "harm", [delete_namespace, empty_namespaces_file, delete_link, delete_table, delete_all]
)
async def test_a_network_that_was_taken_away_is_made_again_around_its_vm(
    state_dir: Path, harm: Callable[[Slot], Awaitable[None]]
) -> None:
    first = Network(config(state_dir, pool_size=0))
    await first.start([])
    slot = await first.acquire()
    mapping = await first.publish(slot, PortMapping(80))
    async with guest(slot) as vm, vm.tcp_server(80, "guest"), vmm(slot) as pid:
        await first.stop(keep=True)
        await harm(slot)
        second = Network(config(state_dir, pool_size=0))
        await second.start([slot], {slot.index: pid})
        await second.republish(slot, [mapping])
        assert (await host.tcp("127.0.0.1", mapping.host_port)).startswith(b"guest ")
        async with foreign.tcp_server(80, "world"):
            assert (await vm.tcp(FOREIGN_IP, 80)).startswith(b"world ")
    await second.release(slot)
    await second.stop(keep=False)
    assert await second.audit() == []


async def test_one_that_cannot_be_made_again_is_told_and_keeps_no_other_from_its_own(
    state_dir: Path,
) -> None:
    first = Network(config(state_dir, pool_size=0))
    await first.start([])
    lost, kept = [await first.acquire() for _ in range(2)]
    mapping = await first.publish(kept, PortMapping(80))
    async with guest(kept) as vm, vm.tcp_server(80, "guest"):
        await first.stop(keep=True)
        await delete_namespace(lost)
        second = Network(config(state_dir, pool_size=0))
        await second.start([lost, kept])
        with pytest.raises(NetworkError, match=f"{PREFIX}-{lost.index} of a VM that runs is gone"):
            await second.republish(lost, [])
        await second.republish(kept, [mapping])
        assert (await host.tcp("127.0.0.1", mapping.host_port)).startswith(b"guest ")
    for slot in (lost, kept):
        await second.release(slot)
    await second.stop(keep=False)
    assert await second.audit() == []

"""``nft flush ruleset`` on a host of its own, beside a real VM: the host is a network namespace."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.e2e.conftest import PAGE, Archive
from tests.e2e.copies import add_shared
from tests.host.network_lab import FOREIGN_IP, HOST_IP, foreign, host, world
from tests.support.vms import Site, eventually, slot_of, state_root

from warmboot.host.network import Slot, connect, links
from warmboot.host.network.rules import nft

WORLD_PORT = 80
SERVED = 8080


@dataclass
class Seen:
    """What a container has reached: the number of its last round, and a line for each answer."""

    slot: Slot
    rounds: int = 0
    answers: list[tuple[int, str]] = field(default_factory=list)

    async def look(self) -> None:
        """Asked from within the VM's own namespace, where no rule of the host is in the way."""
        self.rounds = int(await self._page("rounds") or 0)
        lines = (await self._page("answers")).splitlines()
        self.answers = [
            (int(number), said) for number, _, said in (s.partition(" ") for s in lines)
        ]

    async def further_rounds(self, count: int) -> int:
        """Wait for that many whole rounds; the number of the first of them."""
        await self.look()
        first = self.rounds + 2

        async def over() -> bool:
            await self.look()
            return self.rounds >= first + count - 1

        await eventually(over, "the container goes on trying", timeout_s=300)
        return first

    async def until_world(self, number: int) -> None:
        """Wait until it reaches the world in that round or a later one."""

        async def there() -> bool:
            await self.look()
            return "world" in self.since(number)

        await eventually(there, "the container reaches the world", timeout_s=300)

    def since(self, number: int) -> set[str]:
        return {said.split()[0] for at, said in self.answers if at >= number}

    async def _page(self, name: str) -> str:
        connected = await connect(self.slot.namespace, self.slot.guest_ip, SERVED, 60)
        reader, writer = await asyncio.open_connection(sock=connected)
        try:
            writer.write(f"GET /{name} HTTP/1.0\r\n\r\n".encode())
            async with asyncio.timeout(60):
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        return body.decode() if b" 200 " in head else ""


@pytest.fixture
async def alone(site: Site, image_folder: Path) -> AsyncIterator[Site]:
    """A manager whose host has no other rules than its own; its sources are checked loosely.

    Its snapshot was built by the shared one.
    """
    async with world():
        for scope in ("all", "default"):
            links.sysctl(f"ipv4/conf/{scope}/rp_filter", 2)
        made = Site.at(state_root() / "e2e-flushed", prefix="wbn", subnet="198.19.204.0/22")
        async with made as alone:
            await alone.start()
            await alone.cli(
                "runtime", "register", "--no-snapshot", "--name", "default", str(image_folder)
            )
            await add_shared(alone, site)
            yield alone


async def flush() -> None:
    status, _, error = await nft.run("nft", "flush", "ruleset")
    assert status == 0, error


async def wait_for_repair(site: Site, after: int) -> None:
    async def told() -> bool:
        async with site.client() as client:
            found = await client.events.list(after=after)
        return any(event.kind == "network.rules-restored" for event in found)

    await eventually(told, "the rules are put back, and it is told")
    tables = (await nft.run("nft", "list", "tables"))[1]
    assert f"table ip {site.prefix}_net" in tables


async def test_where_all_rules_are_flushed_a_guest_reaches_nothing_until_they_are_back(
    alone: Site, archive: Archive
) -> None:
    words = ("-p", str(SERVED), "--archive", str(archive.path), archive.name)
    found = await alone.run("flushed", *words)
    assert found["boot_method"] == "warm"
    port = found["ports"][0]["host_port"]
    slot = slot_of(await alone.vm("flushed"))
    async with host.tcp_server(0, "host") as served, foreign.tcp_server(WORLD_PORT, "world"):
        its = [f"{ip}:{served}" for ip in (HOST_IP, slot.host_ip, slot.gateway_ip)]
        await alone.cli(
            *("exec", "--detach", "flushed", "sh", "-c"),
            "n=0; while :; do n=$((n+1)); "
            f"for at in {FOREIGN_IP}:{WORLD_PORT} {' '.join(its)}; do "
            "said=$(busybox timeout 2 busybox nc ${at%:*} ${at#*:} </dev/null); "
            'test -z "$said" || echo $n $said >> /www/answers; '
            "done; echo $n > /www/rounds; done",
        )
        seen = Seen(slot)
        await seen.until_world(1)

        async with alone.store() as store:
            last = await store.events.last_id()
        process = alone.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)  # so that the gap is as long as it takes to look
        try:
            await flush()
            assert (await nft.run("nft", "list", "ruleset"))[1] == ""
            first = await seen.further_rounds(3)
            assert seen.since(first) == set()
        finally:
            process.send_signal(signal.SIGCONT)
        await wait_for_repair(alone, last)
        async with alone.client() as client:
            checks = {check.name: check for check in await client.system.doctor()}
        assert checks["isolation"].ok
        assert "and they were restored" in checks["isolation"].summary
        await seen.until_world(seen.rounds + 1)
        assert PAGE in await page(port), "its published port leads to it again"

        async with alone.store() as store:
            last = await store.events.last_id()
        began = time.monotonic()
        await flush()
        await wait_for_repair(alone, last)
        print(f"the rules were back, and it was told, after {time.monotonic() - began:.2f} s")
        await seen.until_world(seen.rounds + 2)
    assert seen.since(0) == {"world"}, "the host was never reached"


async def page(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()

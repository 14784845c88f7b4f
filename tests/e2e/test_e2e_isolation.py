"""What a user's container can reach, and what it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import ANSWER, NAME, PAGE, Archive
from tests.e2e.guests import UNREACHED, fetch_all
from tests.e2e.host_servers import greeter, own_address
from tests.e2e.test_e2e_boot import fetch
from tests.support.vms import TINY, VM_TIMEOUT_S, Site, eventually, slot_of

from warmboot.host.guest.guest_link import AGENT_PORT
from warmboot.host.network.rules import nft


async def test_a_container_reaches_neither_agent_nor_host_nor_other_vms(
    site: Site, archive: Archive
) -> None:
    words = ("-p", "8080", "--archive", str(archive.path), archive.name)
    found = [await site.run(name, *words) for name in ("inner", "neighbour")]
    for one in found:
        await fetch(one["ports"][0]["host_port"])  # its web server listens by now
    mine, other = [slot_of(await site.vm(one["name"])) for one in found]
    neighbours_port = found[1]["ports"][0]["host_port"]
    bridge = (await site.exec("inner", "busybox ip route")).split("via ")[1].split()[0]
    async with greeter() as port:
        forbidden = [
            # the guest's agent, and Docker behind it
            *(f"{ip}:{AGENT_PORT}" for ip in (mine.guest_ip, mine.gateway_ip, bridge)),
            # the other VM
            f"{other.ns_ip}:8080",
            f"{other.host_ip}:{neighbours_port}",
            f"{other.ns_ip}:{AGENT_PORT}",
            f"{own_address()}:{neighbours_port}",
            # the host
            *(f"{ip}:{port}" for ip in (mine.host_ip, mine.gateway_ip, own_address())),
            f"{mine.host_ip}:{site.port}",
            f"{mine.gateway_ip}:{site.port}",
            # cloud metadata
            "169.254.169.254:80",
        ]
        seen = await fetch_all(site, "inner", ["127.0.0.1:8080", *forbidden])
    assert seen.pop("127.0.0.1:8080") == PAGE.decode().strip(), "the means of looking are broken"
    reached = {url: text for url, text in seen.items() if not UNREACHED.fullmatch(text)}
    assert reached == {}
    assert set(seen) == set(forbidden)


async def test_a_restarted_firewall_opens_nothing(site: Site, archive: Archive) -> None:
    """A container tries all the time, in and out of the rules' presence and the manager's."""
    table = f"{site.prefix}_net"
    reached: list[str] = []
    async with greeter(reached) as port, httpx.AsyncClient(trust_env=False, timeout=60) as browser:
        words = ("-p", "8080", "--archive", str(archive.path), archive.name)
        found = await site.run("flushed", *words)
        slot = slot_of(await site.vm("flushed"))
        page = f"http://127.0.0.1:{found['ports'][0]['host_port']}"
        addresses = f"{own_address()} {slot.host_ip} {slot.gateway_ip}"
        await site.cli(
            *("exec", "--detach", "flushed", "sh", "-c"),
            "n=0; while :; do n=$((n+1)); echo $n > /www/tries; "
            f"for ip in {addresses}; do busybox timeout 1 busybox wget -q -O - http://$ip:{port}/; "
            "done; done",
        )

        async def tries_so_far() -> int | None:
            with contextlib.suppress(httpx.TransportError):
                return int((await browser.get(f"{page}/tries")).text or 0)
            return None

        async def tried_again() -> None:
            before = await eventually(tries_so_far, "the page is there")
            await eventually(lambda: later_than(before), "the container goes on trying")

        async def later_than(before: int) -> bool:
            return (await tries_so_far() or 0) > before + 2

        await tried_again()
        async with site.store() as store:
            last = await store.events.last_id()
        await nft.apply(f"delete table ip {table}")
        await tried_again()  # so its port leads to it, too
        async with site.client() as client:
            kinds = [event.kind for event in await client.events.list(after=last)]
            checks = {check.name: check for check in await client.system.doctor()}
        assert "network.rules-restored" in kinds
        assert checks["isolation"].ok
        assert "and they were restored" in checks["isolation"].summary

        await site.kill()
        await nft.apply(f"delete table ip {table}")
        await asyncio.sleep(3)  # nothing is to happen
        await site.start()
        await tried_again()
    assert reached == []


async def test_who_is_connected_to_a_vm_that_dies_is_told_at_once(
    site: Site, archive: Archive
) -> None:
    words = ("-p", "8080", "--archive", str(archive.path), archive.name)
    found = await site.run("doomed", *words)
    record = await site.vm("doomed")
    assert record.handle is not None
    await fetch(found["ports"][0]["host_port"])  # its web server listens by now
    reader, writer = await asyncio.open_connection("127.0.0.1", found["ports"][0]["host_port"])
    writer.write(b"GET /index.html HTTP/1.1\r\n")  # and no more: the server waits
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await reader.read(1)
    os.kill(record.handle.pid, signal.SIGKILL)
    with pytest.raises((ConnectionAbortedError, ConnectionResetError)):
        async with asyncio.timeout(VM_TIMEOUT_S):
            await reader.read(1)
    ns_ip = slot_of(record).ns_ip
    tracked = Path("/proc/net/nf_conntrack").read_text()
    assert f"={ns_ip} " not in tracked


async def test_names_resolve_where_the_hosts_resolver_is_on_loopback_only(site: Site) -> None:
    await site.run("names", TINY, "sleep", "1000")
    assert ANSWER in await site.exec("names", f"busybox nslookup {NAME} || true")

"""What a user's container can reach, and what it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from tests.e2e.conftest import ANSWER, NAME, PAGE, Archive
from tests.e2e.guests import UNREACHED, fetch_all
from tests.support.vms import PROBE, Site, slot_of

from warmboot.host.guest_link import AGENT_PORT


@contextlib.asynccontextmanager
async def greeter() -> AsyncIterator[int]:
    """A server on every address of the host; yields its port."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nthe host\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "0.0.0.0", 0) as server:
        yield server.sockets[0].getsockname()[1]


def own_address() -> str:
    """The host's address towards the world, or loopback when it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


async def test_a_container_reaches_neither_agent_nor_host_nor_other_vms(
    site: Site, archive: Archive
) -> None:
    words = ("-p", "8080", "--archive", str(archive.path), archive.name)
    found = [await site.run(name, *words) for name in ("inner", "neighbour")]
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


async def test_names_resolve_where_the_hosts_resolver_is_on_loopback_only(site: Site) -> None:
    await site.run("names", PROBE, "sleep", "1000")
    assert ANSWER in await site.exec("names", f"busybox nslookup {NAME} || true")

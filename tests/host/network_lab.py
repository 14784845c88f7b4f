"""A small world of namespaces for the network tests: a host, a foreign host, and guests.

    guest (namespace, TAP eth0) ═ relay ═ tap0 of a slot ── slot ── host ══ veth ══ foreign host
    198.18.0.2                                                203.0.113.1        203.0.113.2

The test's main thread moves into the host's namespace, so the network under test takes that for
the machine. A guest has a kernel TCP/IP stack behind the slot's TAP, as a VM has.

What has a name on the machine itself (namespaces, the name server's folder) bears the number of the
test process: two runs do not meet, and what a killed run has left goes when the next world is made.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import string
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from pyroute2 import IPRoute
from typing_extensions import override

from warmboot.host.network import NetworkConfig, Slot, connect, links, namespaces
from warmboot.host.network.config import NETNS_DIR
from warmboot.host.network.dns import NameServer
from warmboot.system.concurrency import end

_LAB = "wblab"
HOST_IP = "203.0.113.1"
FOREIGN_IP = "203.0.113.2"
METADATA_IP = "169.254.169.254"
UPLINK_MTU = 1400
PATIENT_S = 60.0
"""For what has to happen, on a machine that is busy with other things."""

_RESEND_S = 0.5
_IP_FREEBIND = 15
FOREIGN = NETNS_DIR / f"{_LAB}-{os.getpid()}-foreign"
HOST = NETNS_DIR / f"{_LAB}-{os.getpid()}-host"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def prefix_of(pid: int, letter: str = "t") -> str:
    """The network prefix of a test process: a letter, and its number to the base of 36."""
    digits = ""
    while pid:
        pid, digit = divmod(pid, 36)
        digits = string.printable[digit] + digits
    return letter + digits


PREFIX = prefix_of(os.getpid())
SECOND_PREFIX = prefix_of(os.getpid(), "u")
"""Of another manager of the same host."""


def config(
    state_dir: Path, prefix: str = PREFIX, subnet: str = "10.213.0.0/20", pool_size: int = 1
) -> NetworkConfig:
    return NetworkConfig(state_dir, prefix, subnet, pool_size=pool_size, uid_base=690_000)


@contextmanager
def moved_into(namespace: Path) -> Iterator[None]:
    """The calling thread is in this namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        namespaces.enter(namespace)
        yield
    finally:
        namespaces.enter(Path(f"/proc/self/fd/{home}"))
        os.close(home)


def _build_foreign() -> None:
    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
        host_ns = os.open(HOST, os.O_RDONLY)
        ip.link("add", ifname="wan0", kind="veth", peer={"ifname": "wan0", "net_ns_fd": host_ns})
        os.close(host_ns)
        index = ip.link_lookup(ifname="wan0")[0]
        ip.addr("add", index=index, address=FOREIGN_IP, prefixlen=24)
        ip.addr("add", index=index, address=METADATA_IP, prefixlen=32)
        ip.link("set", index=index, state="up")


def _build_host() -> None:
    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
        index = ip.link_lookup(ifname="wan0")[0]
        ip.addr("add", index=index, address=HOST_IP, prefixlen=24)
        ip.link("set", index=index, state="up", mtu=UPLINK_MTU)
        ip.route("add", dst="default", gateway=FOREIGN_IP)
    links.sysctl("ipv4/ip_forward", 0)


@asynccontextmanager
async def world() -> AsyncIterator[None]:
    await _remove_left()
    before = asyncio.all_tasks()
    try:
        for namespace in (HOST, FOREIGN):
            await namespaces.in_thread(partial(namespaces.create, namespace))
        await namespaces.in_thread(_build_foreign, FOREIGN)
        await namespaces.in_thread(_build_host, HOST)
        with moved_into(HOST):
            yield
    finally:
        # A test that failed has not stopped its network, whose tasks would meddle with the next.
        await end(*(asyncio.all_tasks() - before - {asyncio.current_task()}))
        await _remove_left()


async def _remove_left() -> None:
    """What test processes that were killed have left, and a test of this one."""
    labs = {
        int(match[1])
        for path in NETNS_DIR.glob(f"{_LAB}-*")
        if (match := re.fullmatch(rf"{_LAB}-(\d+)-.*", path.name))
    }
    for pid in labs:
        if pid != os.getpid() and Path(f"/proc/{pid}").exists():
            continue
        for letter in "tu":
            with tempfile.TemporaryDirectory(prefix="wbnet-") as folder:
                await NameServer(config(Path(folder), prefix_of(pid, letter))).stop()
            for path in NETNS_DIR.glob(f"{prefix_of(pid, letter)}-*"):
                await namespaces.in_thread(partial(namespaces.delete, path))
        for path in NETNS_DIR.glob(f"{_LAB}-{pid}-*"):
            await namespaces.in_thread(partial(namespaces.delete, path))


async def answer(
    sender: socket.socket, server: tuple[str, int], data: bytes, timeout_s: float = PATIENT_S
) -> bytes:
    """To a datagram that is sent until it is answered: it may be lost, as on any wire."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        while True:
            await loop.sock_sendto(sender, data, server)
            with suppress(TimeoutError):
                async with asyncio.timeout(_RESEND_S):
                    return await loop.sock_recv(sender, 2000)


@dataclass(frozen=True)
class Place:
    """A namespace in which tests listen, connect and send."""

    namespace: Path

    async def tcp(self, ip: str, port: int, timeout_s: float = PATIENT_S) -> bytes:
        """What the server there says first."""
        connected = await connect(self.namespace, ip, port, timeout_s)
        with connected:
            async with asyncio.timeout(timeout_s):
                return await asyncio.get_running_loop().sock_recv(connected, 1000)

    async def udp(self, ip: str, port: int, data: bytes, timeout_s: float = PATIENT_S) -> bytes:
        """The answer to a datagram; ``TimeoutError`` without one."""
        with await self.bound("0.0.0.0", 0, socket.SOCK_DGRAM) as sender:
            return await answer(sender, (ip, port), data, timeout_s)

    async def bound(self, ip: str, port: int, kind: int, *, anyway: bool = False) -> socket.socket:
        """``anyway``: though it is no address of the host."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, anyway)
            made.bind((ip, port))
            return made

        return await namespaces.in_thread(make, self.namespace)

    async def dual_stack(self) -> socket.socket:
        """A socket of IPv6 that speaks IPv4 as well."""

        def make() -> socket.socket:
            return socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

        return await namespaces.in_thread(make, self.namespace)

    @asynccontextmanager
    async def tcp_server(
        self, port: int, name: str, ip: str = "0.0.0.0", *, anyway: bool = False
    ) -> AsyncIterator[int]:
        """Says its name, the client's address and the segment size; yields its port."""

        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("peername")[0]
            raw = writer.get_extra_info("socket")
            mss = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
            writer.write(f"{name} {peer} {mss}".encode())
            writer.close()

        listening = await self.bound(ip, port, socket.SOCK_STREAM, anyway=anyway)
        server = await asyncio.start_server(greet, sock=listening)
        async with server:
            yield listening.getsockname()[1]

    @asynccontextmanager
    async def udp_server(self, port: int, name: str) -> AsyncIterator[None]:
        """Answers each datagram with its name, the client's address and the datagram."""
        loop = asyncio.get_running_loop()

        class Answer(asyncio.DatagramProtocol):
            @override
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                # Python 3.11's is one without saying so.
                self.transport = cast("asyncio.DatagramTransport", transport)

            @override
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                answer = f"{name} {addr[0]} ".encode() + data
                self.transport.sendto(answer, addr)

        bound = await self.bound("0.0.0.0", port, socket.SOCK_DGRAM)
        transport, _ = await loop.create_datagram_endpoint(Answer, sock=bound)
        try:
            yield
        finally:
            transport.close()


host = Place(HOST)
foreign = Place(FOREIGN)


def _build_guest(slot: Slot) -> int:
    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
        fd = links.open_tap("eth0")
        index = ip.link_lookup(ifname="eth0")[0]
        ip.link("set", index=index, address=slot.guest_mac)
        ip.addr("add", index=index, address=slot.guest_ip, prefixlen=30)
        ip.addr("add", index=1, address="10.99.99.99", prefixlen=32)
        ip.link("set", index=index, state="up")
        ip.route("add", dst="default", gateway=slot.gateway_ip)
    return fd


def _pass_frame(source: int, target: int) -> None:
    try:
        os.write(target, os.read(source, 70_000))
    except (BlockingIOError, OSError):
        return  # a frame is lost, as on any wire


@asynccontextmanager
async def guest(slot: Slot) -> AsyncIterator[Place]:
    """A guest on the slot's TAP."""
    namespace = NETNS_DIR / f"{_LAB}-{os.getpid()}-guest-{slot.index}"
    loop = asyncio.get_running_loop()
    await namespaces.in_thread(partial(namespaces.delete, namespace))
    await namespaces.in_thread(partial(namespaces.create, namespace))
    inner = await namespaces.in_thread(partial(_build_guest, slot), namespace)
    outer = await namespaces.in_thread(partial(links.open_tap, slot.tap), slot.namespace)
    loop.add_reader(inner, _pass_frame, inner, outer)
    loop.add_reader(outer, _pass_frame, outer, inner)
    try:
        yield Place(namespace)
    finally:
        for fd in (inner, outer):
            loop.remove_reader(fd)
            os.close(fd)
        await namespaces.in_thread(partial(namespaces.delete, namespace))

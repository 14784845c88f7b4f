"""A manager that may have 128 descriptors, and a flood of connections by TCP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.managers import Lab, eventually
from tests.support.ports import free_port

DESCRIPTORS = 128
FLOOD = 400
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Small:
    """A manager in a process of its own."""

    pid: int
    port: int
    socket: Path
    log: Path

    async def is_healthy(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return False
        with contextlib.closing(writer):
            writer.write(GET)
            async with asyncio.timeout(60):
                return (await reader.read()).startswith(b"HTTP/1.1 200 ")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


@pytest.fixture
async def small(place: Lab) -> AsyncIterator[Small]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WARMBOOT_", "MANAGER_"))}
    settings = {
        "MANAGER_STORAGE_ROOT": str(place.storage),
        "MANAGER_HYPERVISOR": "simulated",
        "MANAGER_PORT": str(port := free_port()),
        "MANAGER_SOCKET": str(place.root / "m.sock"),
        "MANAGER_DISK_FLOOR_MIB": "0",
        "MANAGER_DOCKER_HOST": f"unix://{place.root}/no-docker.sock",
        "MANAGER_NETWORK_PREFIX": "few",
    }
    serve = f"ulimit -n {DESCRIPTORS}; exec {shlex.quote(sys.executable)} -m warmboot.cli serve"
    log = place.root / "log"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"{serve} > {log} 2>&1"), env=clean | settings
    )
    made = Small(process.pid, port, place.root / "m.sock", log)
    try:
        await eventually(made.is_healthy, "it serves")
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def test_a_flood_by_tcp_is_cut_off_and_the_unix_socket_goes_on(small: Small) -> None:
    with contextlib.ExitStack() as flood:
        flooding = [flood.enter_context(socket.socket()) for _ in range(FLOOD)]
        os.kill(small.pid, signal.SIGSTOP)  # they wait all at once
        for one in flooding:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", small.port))
        os.kill(small.pid, signal.SIGCONT)
        for _ in range(20):
            assert await small.is_healthy()

        async def most_are_cut_off() -> bool:
            return sum(is_cut_off(one) for one in flooding) > FLOOD - DESCRIPTORS

        await eventually(most_are_cut_off, "those that are too many are refused")
        assert small.descriptors() < DESCRIPTORS
    assert "out of system resource" not in small.log.read_text()
    assert "Too many open files" not in small.log.read_text()


def is_cut_off(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True

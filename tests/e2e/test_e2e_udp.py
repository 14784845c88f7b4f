"""A UDP sender that was there before the container is led to it, also after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.ports import free_port
from tests.support.udp_echo import PORT, udp_echo_image
from tests.support.vms import Site, eventually, slot_of

IMAGE = "warmboot-e2e/udp-echo:1"
LIMIT_S = 120.0


class _Sender:
    """Sends a number to a port of this host again and again, and hears which come back."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sent = 0

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncIterator[_Sender]:
        async def send() -> None:
            while True:
                self._sent += 1
                self._socket.sendto(b"%d" % self._sent, self._to)
                await asyncio.sleep(0.02)  # often enough to keep its connection tracked

        with self._socket:
            task = asyncio.create_task(send())
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def tracked(self) -> list[str]:
        """The host's connections of this sender."""
        table = Path("/proc/net/nf_conntrack").read_text().splitlines()
        ends = f"sport={self._socket.getsockname()[1]} dport={self._to[1]} "
        return [line for line in table if ends in line and " udp " in line]

    async def seen(self) -> bool:
        return bool(self.tracked())

    async def heard(self) -> None:
        """Return when something that is sent from now on has come back."""
        after = self._sent
        async with asyncio.timeout(LIMIT_S):
            while int(await asyncio.get_running_loop().sock_recv(self._socket, 100)) <= after:
                pass


@pytest.mark.timeout(600)
async def test_a_udp_sender_that_was_there_before_is_led_to_the_container(
    site: Site, tmp_path: Path
) -> None:
    archive = tmp_path / "echo.tar"
    archive.write_bytes(udp_echo_image(IMAGE))
    port = free_port()
    async with _Sender(port).sending() as sender:
        await eventually(sender.seen, "the host tracks it")
        words = ("-p", f"{port}:{PORT}/udp", "--archive", str(archive), IMAGE)
        await site.run("echo", *words)
        guest = f"src={slot_of(await site.vm('echo')).ns_ip} "
        for again in (False, True):
            if again:
                await site.cli("restart", "-t", "0", "echo")
            began = time.monotonic()
            # Of the connection that it had before nothing is left to keep it from the guest.
            assert [line for line in sender.tracked() if guest not in line] == []
            await sender.heard()
            print(f"heard {time.monotonic() - began:.2f} s after the command had returned")

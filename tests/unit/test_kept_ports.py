"""Ports of what is parked are held, and who connects wakes it."""

from __future__ import annotations

import asyncio
import contextlib

from warmboot.host.network.ports import ports
from warmboot.host.network.ports.kept_ports import KeptPorts
from warmboot.model.container import PortMapping
from warmboot.model.errors import HostError


async def test_a_port_that_comes_back_from_a_failed_wake_wakes_again() -> None:
    kept, wakes = KeptPorts(), asyncio.Queue[None]()

    async def wake() -> None:
        wakes.put_nowait(None)
        raise HostError("it does not come up")

    held, mapping = ports.reserve(PortMapping(80, 0, "127.0.0.1"))
    kept.keep("web", [mapping], wake, {mapping: held})
    kept.give_to(1, "web")
    # One port was published for the new slot; then something failed, and the slot goes.
    published = kept.take(1, mapping)
    assert published is held
    kept.forget(1)
    kept.keep("web", [mapping], wake, {mapping: published})
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(mapping.host_ip, mapping.host_port)
        await wakes.get()
        with contextlib.suppress(ConnectionError):  # cut off, as it did not wake
            assert await reader.read() == b""
        writer.close()
    kept.let_go("web")
    await kept.stop()

"""The host's disk fills up under a container that runs: it stands still, says so, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Archive
from tests.e2e.small_disks import filled, small_site
from tests.support.vms import VM_TIMEOUT_S, Site, eventually

from warmboot.client.results import Event
from warmboot.system.disks import allocated_bytes

ASKED = 7000
WRITTEN = 64 << 20
"""Bytes that the container writes while there is room for none."""


@pytest.fixture
async def small(image_folder: Path) -> AsyncIterator[Site]:
    """A site whose storage is a small file system of its own, a runtime image in it."""
    size_mib = sum(map(allocated_bytes, image_folder.iterdir())) // (1 << 20) + 250
    async with small_site(
        "e2e-stalled", image_folder, size_mib, prefix="wbs", subnet="198.19.244.0/22"
    ) as site:
        yield site


async def ask(port: int) -> None:
    """However long its VM stands still: the kernel gives up after two minutes."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            return writer.close()
        await asyncio.sleep(0.1)  # nobody tells when it is reachable again


async def _told(site: Site, subject_id: str, kind: str) -> list[Event]:
    async with site.client() as client:
        events = await client.events.list(limit=1000)
    return [event for event in events if (event.subject_id, event.kind) == (subject_id, kind)]


async def test_a_running_container_waits_for_room_and_goes_on(
    small: Site, archive: Archive
) -> None:
    words = ("--cold", "-p", str(ASKED), "--archive", str(archive.path), archive.name)
    ran = await small.run("full", *words, "sleep", "1000")
    assert ran["state"] == "running"
    # Under way before the disk is full: to begin a command is to write, too.
    write = f"head -c {WRITTEN} /dev/zero > /written; sync; echo yes > /done"
    when_asked = f"busybox nc -l -p {ASKED}; {write}"
    assert await small.exec("full", f"({when_asked}) < /dev/null > /dev/null 2>&1 &") == ""

    async def listens() -> bool:
        look = f"busybox grep -qs ':{ASKED:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6"
        return await small.exec("full", f"{look} && echo yes; true") == "yes\n"

    await eventually(listens, "it waits until it is asked to write")
    async with small.client() as client:
        with filled(small.storage):
            # Not waited for: it may stand still already, by something that its Docker writes.
            asking = asyncio.create_task(ask(ran["ports"][0]["host_port"]))

            async def stalled() -> bool:
                return (await client.containers.get("full")).stalled

            await eventually(stalled, "it stands still")
            assert "(Stalled)" in (await small.cli("ps")).out
            shown = (await small.cli("inspect", "full")).out
            assert "the disk is full: the container is stalled" in shown
            refused = await small.cli("exec", "full", "echo", "hello", code=1)
            assert "next: free some space" in refused.err
            # The next manager finds out for itself.
            await small.kill()
            await small.start()

            async def told_again() -> bool:
                return len(await _told(small, ran["id"], "container.stalled")) == 2

            await eventually(told_again, "it is found standing still")
            assert await stalled()
            assert await _told(small, ran["id"], "container.resumed") == []

        async def resumed() -> bool:
            return bool(await _told(small, ran["id"], "container.resumed"))

        await eventually(resumed, "it goes on by itself")
        await asyncio.wait_for(asking, VM_TIMEOUT_S)
        assert not await stalled()

    async def written() -> bool:
        return await small.exec("full", "test -e /done && echo yes; true") == "yes\n"

    await eventually(written, "nothing that was to be written is lost")
    assert await small.exec("full", "busybox wc -c < /written") == f"{WRITTEN}\n"

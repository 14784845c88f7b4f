"""Cold boots. What a real guest says on its way up is in a log, also when it does not get there."""

from __future__ import annotations

import asyncio
import os
import re
import signal

from tests.e2e.conftest import PAGE, TOOLS, Archive
from tests.e2e.test_e2e_boot import fetch
from tests.support.vms import Site, eventually, slot_of

from warmboot.host.network.rules import nft
from warmboot.model.vm import VmRecord

KERNEL = "virtio_blk virtio"
FIRST = "Linux version "
KERNEL_LINE = re.compile(r"\[ *\d+\.\d+\] .*")


async def test_a_cold_boot_that_was_asked_for_is_told_and_its_log_stays(
    site: Site, archive: Archive
) -> None:
    words = ("--cold", "-p", "8080", "--archive", str(archive.path), archive.name)
    ran = await site.cli("run", "-d", "--name", "cold", *words)
    assert "booted cold" not in ran.err, "it is what the user wanted"
    cold = await site.inspect("cold")
    assert (cold["boot_method"], cold["fallback_reason"]) == ("cold", "requested")
    stages = [stage["name"] for stage in cold["stages"]]
    assert "boot" in stages
    assert "restore" not in stages
    assert await fetch(cold["ports"][0]["host_port"]) == PAGE
    assert site.log_lines(cold["id"], "fully provisioned", "via cold boot")
    assert not site.log_lines(cold["id"], "falling back")

    said = (await site.cli("logs", "--boot", "cold")).out
    assert FIRST in KERNEL_LINE.findall(said)[0]
    assert KERNEL in said
    assert len(said.splitlines()) > 50
    record = await site.vm("cold")
    assert record.handle is not None
    os.kill(record.handle.pid, signal.SIGKILL)

    async def failed() -> bool:
        return bool((await site.inspect("cold"))["state"] == "failed")

    await eventually(failed, "the container has failed")
    assert (await site.cli("logs", "--boot", "cold")).out == said


async def cut_link(record: VmRecord) -> None:
    slot = slot_of(record)
    link = ("ip", "link", "set", slot.tap, "down")
    status, _, error = await nft.run("nsenter", f"--net={slot.namespace}", *link)
    assert status == 0, error


async def test_a_boot_that_takes_too_long_says_how_far_it_came(bare_site: Site, site: Site) -> None:
    """Links are cut once a kernel has begun, so on no machine does a guest report in time."""
    await bare_site.stop()
    await bare_site.start({"MANAGER_COLD_BOOT_TIMEOUT_S": "20"})
    words = ("-d", "--keep", "--name", "slow", "--cold", TOOLS, "true")
    running = asyncio.create_task(site.cli("run", *words, code=125))
    cut: set[str] = set()
    try:

        async def cut_links() -> bool:  # a cold boot is tried twice
            async with site.store() as store:
                new = [record for record in await store.vms.list() if record.id not in cut]
            for record in new:
                console = site.storage / "vms" / record.id / "console.log"
                if console.exists() and FIRST in console.read_text(errors="replace"):
                    await cut_link(record)
                    cut.add(record.id)
            return running.done()

        await eventually(cut_links, "the boot is given up", timeout_s=180)
        await running
        assert len(cut) == 2
        told = (await site.inspect("slow"))["error"]
        said = (await site.cli("logs", "--boot", "slow")).out
        assert FIRST in KERNEL_LINE.findall(said)[0], "it has the beginning"
        quoted = told["details"].partition("the last that its guest said:\n")[2].splitlines()
        assert quoted
        printable = "".join(c for c in said if c.isprintable() or c == "\n")
        assert [line for line in quoted if line not in printable] == []
        assert "warmboot logs --boot slow" in told["resolution"]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await bare_site.stop()
        await bare_site.start()

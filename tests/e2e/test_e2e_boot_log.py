"""What a real guest says on its way up is in a log, also when it does not get there."""

from __future__ import annotations

import os
import re
import signal
import time

from tests.e2e.conftest import TOOLS, Archive
from tests.support.vms import Site, eventually

KERNEL = "virtio_blk virtio"


async def test_a_cold_boots_log_is_there_and_stays(site: Site, archive: Archive) -> None:
    began = time.monotonic()
    await site.run("cold", "--cold", "--archive", str(archive.path), TOOLS, "sleep", "1000")
    print(f"cold boot: {time.monotonic() - began:.1f} s")
    said = (await site.cli("logs", "--boot", "cold")).out
    assert KERNEL in said
    assert len(said.splitlines()) > 50
    record = await site.vm("cold")
    assert record.handle is not None
    os.kill(record.handle.pid, signal.SIGKILL)

    async def failed() -> bool:
        return bool((await site.inspect("cold"))["state"] == "failed")

    await eventually(failed, "the container has failed")
    assert (await site.cli("logs", "--boot", "cold")).out == said


async def test_a_boot_that_takes_too_long_says_how_far_it_came(bare_site: Site, site: Site) -> None:
    await bare_site.stop()
    await bare_site.start({"MANAGER_COLD_BOOT_TIMEOUT_S": "3"})
    try:
        began = time.monotonic()
        words = ("-d", "--keep", "--name", "slow", "--cold", TOOLS, "true")
        await site.cli("run", *words, code=125)
        assert time.monotonic() - began < 60
        error = (await site.inspect("slow"))["error"]
        assert re.search(r"\[ *\d+\.\d+\] ", error["details"]), error
        assert "warmboot logs --boot slow" in error["resolution"]
        assert re.search(r"\[ *\d+\.\d+\] ", (await site.cli("logs", "--boot", "slow")).out)
    finally:
        await bare_site.stop()
        await bare_site.start()

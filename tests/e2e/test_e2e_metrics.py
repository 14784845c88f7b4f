"""What boots on a real hypervisor leave in /metrics and on `warmboot top`."""

from __future__ import annotations

import json

from tests.support.vms import TINY, Site


async def test_boots_are_counted_timed_and_shown(site: Site) -> None:
    boots = await site.counted("warmboot_boots_total", method="warm")
    saved = await site.counted("warmboot_boot_saved_seconds_total")
    found = await site.run("measured", TINY, "sleep", "1000")
    assert found["boot_method"] == "warm"
    assert await site.counted("warmboot_boots_total", method="warm") == boots + 1
    assert await site.counted("warmboot_boot_saved_seconds_total") > saved
    top = json.loads((await site.cli("top", "--once", "--json")).out)
    assert found["vm_id"] in json.dumps(top)
    assert "measured" in (await site.cli("top", "--once")).out

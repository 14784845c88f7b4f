"""What boots on a real hypervisor leave in /metrics and on `warmboot top`."""

from __future__ import annotations

import json

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.support.vms import PROBE, Site


async def test_boots_are_counted_timed_and_shown(site: Site) -> None:
    before = await counted(site)
    found = await site.run("measured", PROBE, "sleep", "1000")
    assert found["boot_method"] == "warm"
    after = await counted(site)
    boots = ("warmboot_boots_total", "warm")
    assert after[boots] == before.get(boots, 0) + 1
    saved = ("warmboot_boot_saved_seconds_total", "")
    assert after[saved] > before.get(saved, 0)
    top = json.loads((await site.cli("top", "--once", "--json")).out)
    assert found["vm_id"] in json.dumps(top)
    assert "measured" in (await site.cli("top", "--once")).out


async def counted(site: Site) -> dict[tuple[str, str], float]:
    """The sums of all samples, by name and boot method."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"{site.url}/metrics")).text
    sums: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, sample.labels.get("method", ""))
            sums[key] = sums.get(key, 0) + sample.value
    return sums

"""A VM of the warm pool becomes a container's own, as any other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.e2e.conftest import Archive
from tests.e2e.guests import clock, who
from tests.support.eventually import eventually
from tests.support.vms import Site

from warmboot.client import Client

TIMEOUT_S = 420.0
"""They are made ready at a low priority: on a busy machine at the second try."""
WITH_TWO = {"MANAGER_POOL_MIN_VMS": "2", "MANAGER_POOL_MAX_VMS": "2"}


async def two_are_ready(client: Client) -> None:
    async def look() -> bool:  # nobody is told when one has been made ready
        return bool((await client.system.info())["warm_pool"]["ready"] == 2)

    await eventually(look, "two VMs are in the pool", TIMEOUT_S)


async def test_vms_of_the_pool_are_used_and_are_nobodys_before(
    site: Site, archive: Archive
) -> None:
    await site.stop()
    await site.start(WITH_TWO)
    try:
        async with site.client() as client:
            await two_are_ready(client)
            folders = {path.name for path in Path(site.storage, "vms").iterdir()}
            words = ("-d", "--archive", str(archive.path))
            for name in ("one", "two"):
                await site.cli("run", "--name", name, *words, archive.name)
            records = [await site.vm(name) for name in ("one", "two")]
            assert {record.id for record in records} <= folders
            selves = []
            for record in records:
                async with site.link(record) as link:
                    selves.append(await who(link))
                    asked_at = datetime.now(UTC)
                    there = await clock(link)
                    late = timedelta(seconds=2)
                    assert asked_at - late < there < datetime.now(UTC) + late
            for key in ("machine_id", "hostname", "urandom", "getrandom", "uuid", "token"):
                assert selves[0][key] != selves[1][key]
            await site.remove_containers()
    finally:
        await site.stop()
        await site.start()

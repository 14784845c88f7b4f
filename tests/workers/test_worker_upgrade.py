"""A worker that the first release has paused goes on under this version."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.earlier import first_release
from tests.support.vms import Site
from tests.workers.conftest import COUNTER, TIMEOUT_S, counted, last_count

pytestmark = [pytest.mark.docker, pytest.mark.root]


async def test_workers_of_the_first_release_are_resumed_and_adopted(
    dockerd: PrivateDockerd, tmp_path: Path
) -> None:
    settings = {
        "MANAGER_HYPERVISOR": "simulated",
        "MANAGER_DOCKER_HOST": f"unix://{dockerd.socket}",
    }
    async with Site.at(
        tmp_path / "site", prefix="wbp", subnet="198.18.112.0/22", settings=settings
    ) as site:
        await site.start(source=first_release(tmp_path))
        async with site.client() as client:
            for name in ("paused", "running"):
                worker_id = await client.workers.create(image=COUNTER, name=name)
                worker = await client.workers.wait(worker_id, "settled", TIMEOUT_S)
                assert worker.error is None, worker.error
            secret, _ = await counted(client, "paused", beyond=3)
            assert (await client.workers.pause("paused")).state == "paused"
            _, before = await last_count(client, "paused")
        await site.kill()

        await site.start()
        async with site.client() as client:
            known = {worker.name: worker.state for worker in await client.workers.list()}
            assert known == {"paused": "paused", "running": "running"}
            assert (await client.workers.resume("paused")).state == "running"
            assert await counted(client, "paused", beyond=before) == (secret, before + 1)
            for name in known:
                await client.workers.delete(name, force=True)

"""Snapshots that look after themselves, on real VMs: built unasked, tried, versioned, migrated.

One story on a site of its own; each test goes on where the one before has ended.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.support.vms import PROBE, Site, eventually, state_root

from warmboot.client.results import RuntimeSnapshot

BUILD_S = 400.0


@pytest.fixture(scope="module")
async def grown(image_folder: Path) -> AsyncIterator[Site]:
    """A site whose image was registered and nothing else: all other is to come by itself."""
    async with Site.at(
        state_root() / "e2e-versions",
        prefix="wbv",
        subnet="198.19.220.0/22",
        settings={"MANAGER_REBUILD_PAUSE_S": "5"},
    ) as site:
        await site.start()
        ran = await site.cli("runtime", "register", "--name", "default", str(image_folder))
        assert "is being built" in ran.err
        yield site
        await site.remove_containers()
    assert await site.on_the_machine() == []


async def _snapshots(site: Site) -> list[RuntimeSnapshot]:
    async with site.client() as client:
        return await client.snapshots.list()


async def _ready(site: Site, **wanted: Any) -> RuntimeSnapshot:
    """The snapshot that is ready and has the attributes ``wanted``."""

    async def look() -> RuntimeSnapshot | None:
        for snapshot in await _snapshots(site):
            assert snapshot.state != "unhealthy", snapshot.error
            fits = all(getattr(snapshot, name) == value for name, value in wanted.items())
            if snapshot.state == "ready" and fits:
                return snapshot
        return None

    return await eventually(look, f"a snapshot with {wanted} is ready", BUILD_S)


async def test_registering_an_image_builds_its_snapshot_and_tries_it(
    grown: Site, image_folder: Path
) -> None:
    snapshot = await _ready(grown, cause="registered", version=1)
    assert snapshot.usable
    assert snapshot.metadata["canary"]["boot_s"] > 0
    assert snapshot.metadata["canary"]["run_s"] > 0
    async with grown.client() as client:
        told = [e for e in await client.events.list(limit=500) if e.subject_id == snapshot.id]
        assert "canary" in [e.data.get("stage") for e in told]
    again = await grown.cli("runtime", "register", "--name", "default", str(image_folder))
    assert "already" in again.err
    assert [one.id for one in await _snapshots(grown)] == [snapshot.id]
    assert grown.vmms() == [] or await _only_standing_by(grown)
    booted = await grown.run("first", PROBE, "sleep", "1000")
    assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", 1)
    await grown.remove_containers()


async def _only_standing_by(site: Site) -> bool:
    """VMMs that wait for the next boot belong to no record; a canary's would."""
    async with site.store() as store:
        return not await store.vms.list()


async def test_a_version_of_weight_0_only_stands_by(grown: Site) -> None:
    first = await _ready(grown, version=1)
    created = await grown.cli("snapshot", "create", "default", timeout_s=BUILD_S)
    second = await _ready(grown, version=2)
    assert created.out.strip() == second.id
    for weights, serves in (({first.id: "1", second.id: "0"}, 1), ({first.id: "0"}, 2)):
        for snapshot_id, weight in {second.id: "1", **weights}.items():
            await grown.cli("snapshot", "weight", snapshot_id, weight)
        for number in range(3):
            booted = await grown.run(f"v{serves}-{number}", PROBE, "sleep", "1000")
            assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", serves)
        await grown.remove_containers()
    stats = json.loads((await grown.cli("snapshot", "stats", "default", "--json")).out)
    by_version = {one["version"]: one for one in stats}
    assert by_version[1]["successes"] == 4
    assert by_version[2]["successes"] == 3
    assert by_version[2]["boot_s"]["median"] > 0
    refused = await grown.cli("snapshot", "weight", first.id, "many", code=2)
    assert "is no number" in refused.err


async def test_a_rebuild_is_swapped_in_with_weight_and_pin(grown: Site) -> None:
    old = await _ready(grown, version=2)
    await grown.cli("snapshot", "pin", old.id)
    rebuilt = await grown.cli("snapshot", "rebuild", old.id, timeout_s=BUILD_S)
    new = await _ready(grown, version=3)
    assert rebuilt.out.strip() == new.id
    assert (new.weight, new.pinned) == (1, True)
    assert old.id not in [one.id for one in await _snapshots(grown)]
    booted = await grown.run("heir", PROBE, "sleep", "1000")
    assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", 3)
    await grown.remove_containers()


async def test_a_snapshot_of_another_hypervisor_version_is_migrated(grown: Site) -> None:
    stale = await _ready(grown, version=3)
    await grown.stop()
    async with grown.store() as store:
        needed = {**stale.metadata["requires"], "hypervisor_version": "9.0.0"}
        await store.snapshots.update_metadata(UUID(stale.id), {"requires": needed})
    await grown.start()

    async def shown() -> bool:
        listed = await grown.cli("snapshot", "ls")
        return "unfit (hypervisor version)" in listed.out

    assert await shown(), "it is told apart from what is broken"
    # The other version, though of weight 0, is warm meanwhile.
    booted = await grown.run("meanwhile", PROBE, "sleep", "1000")
    assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", 1)
    migrated = await _ready(grown, version=4, cause="migration")
    assert (migrated.weight, migrated.pinned, migrated.usable) == (1, True, True)
    assert stale.id not in [one.id for one in await _snapshots(grown)]
    booted = await grown.run("after", PROBE, "sleep", "1000")
    assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", 4)
    async with grown.store() as store:
        kinds = [e.kind for e in await store.events.since(0, 10_000) if e.subject_id == stale.id]
    assert "runtime-snapshot.unusable" in kinds
    assert "runtime-snapshot.unhealthy" not in kinds

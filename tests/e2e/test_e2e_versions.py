"""Snapshots are reconciled, on real VMs: built unasked, tried, versioned, migrated.

One story on a site of its own; each test goes on where the one before has ended.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.e2e.conftest import Archive
from tests.e2e.copies import add_copy
from tests.support.vms import BUILD_S, IMPATIENT, TINY, Site, eventually, state_root

from warmboot.client.results import RuntimeSnapshot, Shape
from warmboot.host.snapshots.snapshot_files import BUILDING
from warmboot.model.runtime_snapshot import MEMORY_FILE, BootStats

pytestmark = pytest.mark.random_order(disabled=True)  # one story


@pytest.fixture(scope="module")
async def grown(image_folder: Path) -> AsyncIterator[Site]:
    """A site whose image was registered and nothing else: all other is to come by itself."""
    async with Site.at(
        state_root() / "e2e-versions",
        prefix="wbv",
        subnet="198.19.248.0/22",
        settings={
            **IMPATIENT,
            "MANAGER_REBUILD_PAUSE_S": "5",
            "MANAGER_SHAPE_DEMAND_BOOTS": "1",
        },
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


async def _ready(site: Site, *, after: int = 0, **wanted: Any) -> RuntimeSnapshot:
    """The ready snapshot of a version ``after`` that, with the attributes ``wanted``."""

    async def look() -> RuntimeSnapshot | None:
        for snapshot in await _snapshots(site):
            assert snapshot.state != "unhealthy", snapshot.error
            fits = all(getattr(snapshot, name) == value for name, value in wanted.items())
            if snapshot.state == "ready" and snapshot.version > after and fits:
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
    booted = await grown.run("first", TINY, "sleep", "1000")
    assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", 1)
    await grown.remove_containers()


async def _only_standing_by(site: Site) -> bool:
    """VMMs that wait for the next boot belong to no record; a canary's would."""
    async with site.store() as store:
        return not await store.vms.list()


async def test_a_version_of_weight_0_only_stands_by(grown: Site) -> None:
    first = await _ready(grown, version=1)
    async with grown.store() as store:
        built = await store.snapshots.get(UUID(first.id))
    copy = await add_copy(grown, built, success_count=0, boots=BootStats())
    second = await _ready(grown, version=2)
    assert second.id == str(copy.id)
    for weights, serves in (({first.id: "1", second.id: "0"}, 1), ({first.id: "0"}, 2)):
        for snapshot_id, weight in {second.id: "1", **weights}.items():
            await grown.cli("snapshot", "weight", snapshot_id, weight)
        for number in range(3):
            booted = await grown.run(f"v{serves}-{number}", TINY, "sleep", "1000")
            assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", serves)
        await grown.remove_containers()
    stats = json.loads((await grown.cli("snapshot", "stats", "default", "--json")).out)
    by_version = {one["version"]: one for one in stats}
    assert by_version[1]["successes"] == 4
    assert by_version[2]["successes"] == 3
    assert by_version[2]["boot_s"]["median"] > 0
    refused = await grown.cli("snapshot", "weight", first.id, "many", code=2)
    assert "is not a number" in refused.err


async def test_a_rebuild_is_swapped_in_with_weight_and_pin_and_until_then_the_old_one_serves(
    grown: Site,
) -> None:
    old = await _ready(grown, version=2)
    await grown.cli("snapshot", "pin", old.id)
    rebuilding = await grown.begin("snapshot", "rebuild", old.id)

    async def building() -> RuntimeSnapshot | None:
        successors = [one for one in await _snapshots(grown) if one.replaces == old.id]
        return successors[0] if successors and grown.vmms() else None

    begun = await eventually(building, "a VM is booted for its successor", 180)
    booted = await grown.run("meanwhile", TINY, "sleep", "1000")
    assert (booted["boot_method"], booted["runtime_snapshot_id"]) == ("warm", old.id)
    async with grown.client() as client:
        assert (await client.snapshots.get(begun.id)).state == "creating"
    out, err = await asyncio.wait_for(rebuilding.communicate(), BUILD_S)
    assert (rebuilding.returncode, out.decode().strip()) == (0, begun.id), err
    new = await _ready(grown, version=3)
    assert (new.id, new.weight, new.pinned) == (begun.id, 1, True)
    assert old.id not in [one.id for one in await _snapshots(grown)]
    assert await grown.exec("meanwhile", "echo alive") == "alive\n", "its memory is the old one's"
    booted = await grown.run("heir", TINY, "sleep", "1000")
    assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", 3)
    await grown.remove_containers()
    assert not Path(old.snapshot_path).exists(), "nobody maps it any more"


async def test_a_successor_in_which_nothing_wakes_fails_its_canary_and_the_old_one_serves(
    grown: Site,
) -> None:
    old = await _ready(grown, version=3)
    folder = Path(old.snapshot_path).parent
    before = {outcome: await _canaries(grown, outcome) for outcome in ("succeeded", "failed")}
    async with grown.client() as client, client.events.follow() as events:
        rebuilding = await grown.begin("snapshot", "rebuild", old.id)
        async for event in events:
            if event.kind == "runtime-snapshot.failed":
                break
            if event.kind == "runtime-snapshot.stage" and event.data["stage"] == "publish":
                # Its VM is frozen. What a failing disk may do to memory while it is stored:
                await _zero(folder / f"{BUILDING}{event.subject_id}" / MEMORY_FILE)
        _, err = await asyncio.wait_for(rebuilding.communicate(), BUILD_S)
        assert event.data["replaces"] == old.id
        assert event.data["error"]["code"] == "canary-failed"
        assert "a VM could not be restored from it" in event.data["error"]["brief"]
        assert rebuilding.returncode == 1
        assert "the new runtime snapshot failed its test" in err.decode()
        assert "next: see `warmboot doctor`" in err.decode()
        known = {one.id: one.state for one in await client.snapshots.list()}
        assert known[old.id] == "ready"
        assert event.subject_id not in known
    assert await _canaries(grown, "failed") == before["failed"] + 1
    assert await _canaries(grown, "succeeded") == before["succeeded"]
    booted = await grown.run("still", TINY, "sleep", "1000")
    assert (booted["boot_method"], booted["runtime_snapshot_id"]) == ("warm", old.id)
    await grown.remove_containers()
    assert grown.vmms() == []
    assert grown.temporary_files() == []
    assert not (folder / event.subject_id).exists()


async def _canaries(site: Site, outcome: str) -> float:
    return await site.counted("warmboot_snapshot_canaries_total", outcome=outcome)


async def _zero(path: Path) -> None:
    """All of the file's content, in no time."""
    size = str(path.stat().st_size)
    process = await asyncio.create_subprocess_exec(
        *("fallocate", "--punch-hole", "--length", size, str(path))
    )
    assert await process.wait() == 0


async def test_a_snapshot_of_another_host_is_migrated(grown: Site) -> None:
    stale = await _ready(grown, weight=1)
    await grown.stop()
    async with grown.store() as store:
        needed = {**stale.metadata["requires"], "cpu_model": "another"}
        await store.snapshots.update_metadata(UUID(stale.id), {"requires": needed})
    await grown.start()
    listed = await grown.cli("snapshot", "ls")
    assert "unfit (cpu model)" in listed.out, "it is told apart from what is broken"
    # The other version, though of weight 0, is warm meanwhile.
    booted = await grown.run("meanwhile", TINY, "sleep", "1000")
    assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", 1)
    migrated = await _ready(grown, after=stale.version, cause="migration")
    assert (migrated.weight, migrated.pinned, migrated.usable) == (1, True, True)
    assert stale.id not in [one.id for one in await _snapshots(grown)]
    booted = await grown.run("after", TINY, "sleep", "1000")
    assert (booted["boot_method"], booted["runtime_snapshot_id"]) == ("warm", migrated.id)
    await grown.remove_containers()
    async with grown.store() as store:
        kinds = [e.kind for e in await store.events.since(0, 10_000) if e.subject_id == stale.id]
    assert "runtime-snapshot.unusable" in kinds
    assert "runtime-snapshot.unhealthy" not in kinds
    assert await grown.counted("warmboot_snapshots_turned_unusable_total") == 1
    rebuilt = {"kind": "rebuild", "outcome": "succeeded"}
    assert await grown.counted("warmboot_snapshot_builds_total", **rebuilt) == 1


async def test_a_shape_that_no_snapshot_has_boots_cold_and_gets_a_snapshot_of_its_own(
    grown: Site, archive: Archive
) -> None:
    wish = ("--cpus", "1", "--memory", "512m")
    words = (*wish, "--archive", str(archive.path), archive.name, "sleep", "1000")
    ran = await grown.cli("run", "-d", "--name", "small", *words)
    assert "booted cold: No runtime snapshot has this shape" in ran.err
    assert "asked for 1 vCPU, 512 MiB" in ran.err
    small = await grown.inspect("small")
    assert (small["boot_method"], small["fallback_reason"]) == ("cold", "shape_mismatch")
    assert small["shape"] == {"vcpus": 1, "memory_mib": 512}
    seen = (await grown.exec("small", "nproc; cat /proc/meminfo")).splitlines()
    assert seen[0] == "1"
    total_kib = int(next(line for line in seen if line.startswith("MemTotal")).split()[1])
    assert 420 << 10 < total_kib <= 512 << 10
    (warning,) = grown.log_lines(small["id"], "falling back to cold boot")
    assert "WARN Warm boot failed for container" in warning
    await grown.remove_containers()
    async with grown.client() as client:
        wanted = [
            (e.data["asked"], e.data["build"])
            for e in await client.events.list(limit=1000)
            if e.kind == "runtime-snapshot.wanted"
        ]
    assert wanted == [(1, True)]
    own = await _ready(grown, cause="demand")
    assert own.shape == Shape(1, 512)
    found = await grown.run("warm", *wish, TINY, "sleep", "1000")
    assert (found["boot_method"], found["runtime_snapshot_id"]) == ("warm", own.id)
    assert await grown.exec("warm", "nproc") == "1\n"

"""Snapshots are reconciled, on real VMs: built unasked, tried, versioned, migrated.

One story on a site of its own; each test goes on where the one before has ended. A build takes
longest of all, so two are followed to their ends, one that was ordered and one that was not; of the
others it is seen that they begin.
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
from tests.e2e.copies import add_shared
from tests.support.vms import BUILD_S, IMPATIENT, TINY, Site, eventually, state_root

from warmboot.client.results import RuntimeSnapshot, Shape
from warmboot.host.snapshots.snapshot_files import BUILDING
from warmboot.model.runtime_snapshot import MEMORY_FILE

pytestmark = pytest.mark.random_order(disabled=True)  # one story


@pytest.fixture(scope="module")
async def grown() -> AsyncIterator[Site]:
    async with Site.at(
        state_root() / "e2e-versions",
        prefix="wbv",
        subnet="198.19.248.0/22",
        settings={
            **IMPATIENT,
            "MANAGER_REBUILD_PAUSE_S": "5",
            "MANAGER_SHAPE_DEMAND_BOOTS": "1",
        },
    ) as own:
        await own.start()
        yield own
        await own.remove_containers()
    assert await own.on_the_machine() == []


async def _snapshots(site: Site) -> list[RuntimeSnapshot]:
    async with site.client() as client:
        return await client.snapshots.list()


async def _ready(site: Site, **wanted: Any) -> RuntimeSnapshot:
    """The ready snapshot with the attributes ``wanted``."""

    async def look() -> RuntimeSnapshot | None:
        for snapshot in await _snapshots(site):
            assert snapshot.state != "unhealthy", snapshot.error
            fits = all(getattr(snapshot, name) == value for name, value in wanted.items())
            if snapshot.state == "ready" and fits:
                return snapshot
        return None

    return await eventually(look, f"a snapshot with {wanted} is ready", BUILD_S)


async def _begun(site: Site, **wanted: Any) -> RuntimeSnapshot:
    """One that is being built, with the attributes ``wanted``, whose VM is there."""

    async def look() -> RuntimeSnapshot | None:
        for snapshot in await _snapshots(site):
            fits = all(getattr(snapshot, name) == value for name, value in wanted.items())
            if snapshot.state == "creating" and fits and await _has_vmm(site, snapshot):
                return snapshot
        return None

    return await eventually(look, f"a VM is booted for a snapshot with {wanted}", 180)


async def _has_vmm(site: Site, snapshot: RuntimeSnapshot) -> bool:
    async with site.store() as store:
        records = await store.vms.of_owner(UUID(snapshot.id))
    return any(one.handle is not None and one.handle.pid in site.vmms() for one in records)


async def test_registering_an_image_begins_its_snapshot(grown: Site, image_folder: Path) -> None:
    ran = await grown.cli("runtime", "register", "--name", "default", str(image_folder))
    assert "is being built" in ran.err
    begun = await _begun(grown, cause="registered", version=1)
    assert [one.id for one in await _snapshots(grown)] == [begun.id]
    await grown.cli("snapshot", "rm", begun.id)
    assert await _snapshots(grown) == []
    assert grown.vmms() == []
    assert grown.temporary_files() == []


async def test_a_version_of_weight_0_only_stands_by(
    grown: Site, site: Site, image_folder: Path
) -> None:
    copies = [await add_shared(grown, site) for _ in range(2)]
    first, second = [await _ready(grown, id=str(copy.id)) for copy in copies]
    again = await grown.cli("runtime", "register", "--name", "default", str(image_folder))
    assert "already" in again.err
    assert {one.id for one in await _snapshots(grown)} == {first.id, second.id}
    assert (first.version, second.version) == (2, 3)
    boots = 2
    for weights, serves in (({first.id: "1", second.id: "0"}, first), ({first.id: "0"}, second)):
        for snapshot_id, weight in {second.id: "1", **weights}.items():
            await grown.cli("snapshot", "weight", snapshot_id, weight)
        for number in range(boots):
            booted = await grown.run(f"v{serves.version}-{number}", TINY, "sleep", "1000")
            assert (booted["boot_method"], booted["runtime_snapshot_id"]) == ("warm", serves.id)
        await grown.remove_containers()
    stats = json.loads((await grown.cli("snapshot", "stats", "default", "--json")).out)
    by_version = {one["version"]: one for one in stats}
    for version in (first.version, second.version):
        assert by_version[version]["successes"] == boots
        assert by_version[version]["boot_s"]["median"] > 0
    refused = await grown.cli("snapshot", "weight", first.id, "many", code=2)
    assert "is not a number" in refused.err


async def test_a_rebuild_is_swapped_in_with_weight_and_pin_and_until_then_the_old_one_serves(
    grown: Site,
) -> None:
    old = await _ready(grown, version=3)
    await grown.cli("snapshot", "pin", old.id)
    canaries = await _canaries(grown, "succeeded")
    rebuilding = await grown.begin("snapshot", "rebuild", old.id)
    begun = await _begun(grown, replaces=old.id)
    booted = await grown.run("meanwhile", TINY, "sleep", "1000")
    assert (booted["boot_method"], booted["runtime_snapshot_id"]) == ("warm", old.id)
    async with grown.client() as client:
        assert (await client.snapshots.get(begun.id)).state == "creating"
    out, err = await asyncio.wait_for(rebuilding.communicate(), BUILD_S)
    assert (rebuilding.returncode, out.decode().strip()) == (0, begun.id), err
    new = await _ready(grown, version=4)
    assert (new.id, new.weight, new.pinned, new.usable) == (begun.id, 1, True, True)
    assert new.metadata["canary"]["boot_s"] > 0
    assert new.metadata["canary"]["run_s"] > 0
    async with grown.client() as client:
        told = [e for e in await client.events.list(limit=500) if e.subject_id == new.id]
    assert "canary" in [e.data.get("stage") for e in told]
    rebuilt = {"kind": "rebuild", "outcome": "succeeded"}
    assert await grown.counted("warmboot_snapshot_builds_total", **rebuilt) == 1
    assert await _canaries(grown, "succeeded") == canaries + 1
    assert grown.vmms() == [await _vmm_of(grown, "meanwhile")], "the canary's is gone"
    assert old.id not in [one.id for one in await _snapshots(grown)]
    assert await grown.exec("meanwhile", "echo alive") == "alive\n", "its memory is the old one's"
    booted = await grown.run("heir", TINY, "sleep", "1000")
    assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", 4)
    await grown.remove_containers()
    assert not Path(old.snapshot_path).exists(), "nobody maps it any more"


async def _vmm_of(site: Site, name: str) -> int:
    handle = (await site.vm(name)).handle
    assert handle is not None
    return handle.pid


async def test_a_successor_in_which_nothing_wakes_fails_its_canary_and_the_old_one_serves(
    grown: Site,
) -> None:
    old = await _ready(grown, version=4)
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


async def test_a_snapshot_of_another_host_is_not_used_and_its_migration_begins(
    grown: Site,
) -> None:
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
    assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", 2)
    migration = await _begun(grown, cause="migration")
    assert migration.replaces == stale.id
    await grown.remove_containers()
    # Enough is seen; ``test_e2e_renewal`` follows one to its end.
    async with grown.client() as client:  # at once: the next migration begins after 5 s
        for one in (migration, stale):
            await client.snapshots.delete(one.id)
    async with grown.store() as store:
        kinds = [e.kind for e in await store.events.since(0, 10_000) if e.subject_id == stale.id]
    assert "runtime-snapshot.unusable" in kinds
    assert "runtime-snapshot.unhealthy" not in kinds
    assert await grown.counted("warmboot_snapshots_turned_unusable_total") == 1
    assert grown.temporary_files() == []


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
    assert (own.shape, own.usable) == (Shape(1, 512), True)
    assert own.metadata["canary"]["run_s"] > 0
    found = await grown.run("warm", *wish, TINY, "sleep", "1000")
    assert (found["boot_method"], found["runtime_snapshot_id"]) == ("warm", own.id)
    assert await grown.exec("warm", "nproc") == "1\n"

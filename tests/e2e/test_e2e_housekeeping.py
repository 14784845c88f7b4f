"""Housekeeping on real VMs: garbage, limits, damage, and in which form memory is stored.

One story on a site of its own; each test goes on where the one before has ended.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.e2e.conftest import Archive
from tests.e2e.copies import add_copy, add_shared
from tests.support.vms import IMPATIENT, TINY, Site, eventually, state_root

from warmboot.client import Client
from warmboot.client.results import RuntimeSnapshot
from warmboot.model.runtime_snapshot import FRAMES_FILE, MEMORY_FILE, STATE_FILE, SnapshotState
from warmboot.system.disks import allocated_bytes

pytestmark = pytest.mark.random_order(disabled=True)  # one story

HOURLY_TENTH_S = str(0.1 / 3600)
"""A tenth of a second, in hours."""

EVERY_4_S = str(4 / 3600)
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
async def kept(site: Site, image_folder: Path) -> AsyncIterator[Site]:
    """A site of its own: its housekeeping must not disturb other tests.

    Its snapshot was built by the shared one.
    """
    settings = {
        **IMPATIENT,
        **{f"MANAGER_{name}": "0" for name in ("INTEGRITY_EVERY_H", "COMPRESS_AFTER_H")},
        "MANAGER_MAX_RUNTIME_SNAPSHOTS": "4",
    }
    async with Site.at(
        state_root() / "e2e-keep", prefix="wbk", subnet="198.19.220.0/22", settings=settings
    ) as made:
        await made.start()
        await made.cli(
            "runtime", "register", "--name", "default", "--no-snapshot", str(image_folder)
        )
        await add_shared(made, site)
        yield made


async def restarted(site: Site, **settings: str) -> None:
    await site.stop()
    site.settings.update(settings)
    await site.start()


async def only(client: Client) -> RuntimeSnapshot:
    (snapshot,) = [one for one in await client.snapshots.list() if one.state == "ready"]
    return snapshot


async def rebuild_of(client: Client, old: RuntimeSnapshot) -> RuntimeSnapshot:
    """The one that is being built in the place of ``old``, because that is damaged.

    To see that it begins is enough: ``test_e2e_versions`` follows builds to their ends.
    """

    async def begun() -> RuntimeSnapshot | None:
        known = await client.snapshots.list()
        return next((one for one in known if one.replaces == old.id), None)

    rebuild = await eventually(begun, "a rebuild begins", 180)
    assert rebuild.cause == "unhealthy"
    return rebuild


async def test_gc_says_what_would_go_and_removes_it_while_a_container_runs(kept: Site) -> None:
    async with kept.store() as store, kept.client() as client:
        (used,) = await store.snapshots.list()
        await kept.run("user", TINY, "sleep", "1000")
        # A row without files: an old snapshot that nobody has used for a long time.
        old = replace(
            used,
            id=uuid4(),
            state=SnapshotState.CREATING,
            created_at=LONG_AGO,
            last_used_at=None,
            version=0,
        )
        old = replace(old, snapshot_path=used.snapshot_path.with_name(str(old.id)))
        await store.snapshots.add(old)
        await store.snapshots.set_state(old.id, SnapshotState.READY)
        old.snapshot_path.mkdir()
        (old.snapshot_path / MEMORY_FILE).write_bytes(bytes(1 << 20))
        orphan = used.snapshot_path.with_name(str(uuid4()))
        orphan.mkdir()
        archive = kept.storage / "archives" / ("ab" * 32)
        archive.parent.mkdir(exist_ok=True)
        archive.write_bytes(b"x" * 5000)
        os.utime(archive, (0, 0))

        shown = (await kept.cli("gc", "--dry-run")).out
        assert "unused for too long" in shown
        assert "3 things, would free" in shown
        document = json.loads((await kept.cli("gc", "--json")).out)
        assert document["kept"] == []
        why = {one["name"]: one["why"] for one in document["removed"]}
        assert why == {str(old.id): "unused", orphan.name: "orphan", archive.name: "orphan"}
        assert not any(path.exists() for path in (old.snapshot_path, orphan, archive))
        assert await kept.exec("user", "echo alive") == "alive\n"
        assert [one.id for one in await client.snapshots.list()] == [str(used.id)]
        assert (await kept.cli("gc")).out == "nothing to remove\n"
        again = await kept.run("again", TINY, "sleep", "1000")
        assert again["boot_method"] == "warm"
        await kept.remove_containers()


async def test_at_most_so_many_stay_and_what_is_pinned_or_in_use_never_goes(kept: Site) -> None:
    async with kept.store() as store, kept.client() as client:
        (first,) = await store.snapshots.list()
        recently = datetime.now(UTC) - timedelta(days=1)
        least = await add_copy(kept, first, last_used_at=recently)
        pinned = await add_copy(kept, first, last_used_at=LONG_AGO, pinned=True)
        mapped = await add_copy(kept, first)
        for other in (first, least, pinned):
            await client.snapshots.change(str(other.id), weight=0)
        ran = await kept.run("user", TINY, "sleep", "1000")
        assert ran["runtime_snapshot_id"] == str(mapped.id)
        await store.snapshots.record_success(mapped.id, LONG_AGO)

        async def ready() -> set[UUID]:
            return {UUID(s.id) for s in await client.snapshots.list() if s.state == "ready"}

        assert (await kept.cli("gc")).out == "nothing to remove\n"
        assert await ready() == {first.id, least.id, pinned.id, mapped.id}
        # A fifth: the least used of those that may go makes room for it.
        begun = (await kept.cli("snapshot", "create", "-d", "default")).out.strip()
        assert await ready() == {first.id, pinned.id, mapped.id}
        assert not least.snapshot_path.exists()
        told = [e for e in await client.events.list(limit=1000) if e.subject_id == str(least.id)]
        assert (told[-1].kind, told[-1].data["why"]) == ("runtime-snapshot.deleted", "over-limit")
        await client.snapshots.delete(begun)

        await restarted(kept, MANAGER_MAX_RUNTIME_SNAPSHOTS="2")
        shown = (await kept.cli("gc", "--dry-run")).out
        assert "the least used of too many" in shown
        assert "1 thing, would free" in shown
        await kept.cli("snapshot", "pin", str(first.id))
        assert (await kept.cli("gc")).out == "nothing to remove\n"
        refused = await kept.cli("snapshot", "create", "default", code=1)
        assert "none of them can be removed" in refused.err
        assert await kept.exec("user", "echo alive") == "alive\n"
        assert await ready() == {first.id, pinned.id, mapped.id}

        await kept.cli("snapshot", "unpin", str(pinned.id))
        await kept.remove_containers()
        document = json.loads((await kept.cli("gc", "--json")).out)
        why = {one["name"]: one["why"] for one in document["removed"]}
        assert why == {str(pinned.id): "unused", str(mapped.id): "unused"}
        assert await ready() == {first.id}
        assert await kept.counted("warmboot_garbage_removed_total", reason="unused") == 2
        await client.snapshots.change(str(first.id), weight=1, pinned=False)


async def test_what_is_cold_is_compressed_by_itself_and_still_boots_warm(kept: Site) -> None:
    await restarted(kept, MANAGER_COMPRESS_AFTER_H=HOURLY_TENTH_S, MANAGER_UNPACK_AFTER_BOOTS="0")
    async with kept.client() as client:

        async def compressed() -> RuntimeSnapshot | None:
            snapshot = await only(client)
            return snapshot if snapshot.metadata["compressed"] else None

        snapshot = await eventually(compressed, "it is compressed", 300)
        folder = Path(snapshot.snapshot_path)
        assert (folder / FRAMES_FILE).exists()
        assert not (folder / MEMORY_FILE).exists()
        metadata = snapshot.metadata
        assert metadata["compressed_size_bytes"] < metadata["mem_nonzero_bytes"]
        found = await kept.run("warm", TINY, "sleep", "1000")
        assert found["boot_method"] == "warm"
        await kept.remove_containers()
    assert await changes(kept, "compress") == 1


async def changes(site: Site, action: str) -> float:
    labels = {"action": action, "outcome": "succeeded"}
    return await site.counted("warmboot_snapshot_compressions_total", **labels)


async def test_a_cache_over_its_budget_shrinks_and_what_is_hot_is_unpacked(kept: Site) -> None:
    (cached,) = (kept.storage / "cache" / "memory").glob("*.mem")
    await restarted(
        kept,
        MANAGER_MAX_RUNTIME_SNAPSHOTS="4",
        MANAGER_COMPRESS_AFTER_H="0",
        MANAGER_CACHE_BUDGET_MIB="1",
        MANAGER_UNPACK_AFTER_BOOTS="2",
        MANAGER_GC_EVERY_H=EVERY_4_S,
    )

    async def shrunk() -> bool:
        return not cached.exists()

    await eventually(shrunk, "garbage is collected by itself", 120)

    async def counted() -> bool:
        return await kept.counted("warmboot_garbage_removed_total", reason="over-budget") == 1

    await eventually(counted, "and counted")
    assert await kept.counted("warmboot_garbage_freed_bytes_total") > 0
    async with kept.client() as client:
        assert (await only(client)).metadata["compressed"] is True
        for name in ("one", "two"):
            assert (await kept.run(name, TINY, "sleep", "1000"))["boot_method"] == "warm"

        async def plain() -> RuntimeSnapshot | None:
            snapshot = await only(client)
            return snapshot if snapshot.metadata["compressed"] is False else None

        unpacked = await eventually(plain, "it is unpacked by itself", 300)
        metadata = unpacked.metadata
        assert metadata["compressed_size_bytes"] is None
        folder = Path(unpacked.snapshot_path)
        assert metadata["mem_stored_bytes"] == allocated_bytes(folder / MEMORY_FILE)
        assert not (folder / FRAMES_FILE).exists()
    assert await changes(kept, "unpack") == 1
    assert await kept.exec("two", "echo alive") == "alive\n"
    assert (await kept.run("three", TINY, "sleep", "1000"))["boot_method"] == "warm"
    await kept.remove_containers()


async def test_damage_is_found_in_the_background_and_a_rebuild_begins(
    kept: Site, site: Site
) -> None:
    async with kept.client() as client:
        old = await only(client)
        state = Path(old.snapshot_path) / STATE_FILE
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 0xFF
        state.write_bytes(content)
        often = str(2 / 3600)
        await restarted(kept, MANAGER_INTEGRITY_EVERY_H=often, MANAGER_GC_EVERY_H="0")

        async def told() -> list[str]:
            events = await client.events.list(limit=1000)
            kinds = [event.kind for event in events if event.subject_id == old.id]
            return [kind for kind in kinds if kind.endswith((".damaged", ".unhealthy"))]

        assert await eventually(told, "the damage is found", 180)
        rebuild = await rebuild_of(client, old)
        assert await kept.counted("warmboot_snapshot_checks_total", outcome="damaged") == 1
        assert await kept.counted("warmboot_snapshots_turned_unhealthy_total") == 1
        for spoiled in (rebuild, old):
            await client.snapshots.delete(spoiled.id)
        await add_shared(kept, site)
    assert kept.vmms() == []
    assert kept.temporary_files() == []


async def test_a_folder_that_was_removed_by_hand_is_told_and_its_rebuild_begins(
    kept: Site, site: Site, archive: Archive
) -> None:
    await restarted(kept, MANAGER_INTEGRITY_EVERY_H="0")
    async with kept.client() as client:
        old = await only(client)
        shutil.rmtree(old.snapshot_path)
        words = ("--archive", str(archive.path), archive.name, "sleep", "1000")
        found = await kept.run("cold", *words)
        assert (found["boot_method"], found["fallback_reason"]) == ("cold", "snapshot_damaged")
        assert f"the snapshot {old.id} is damaged" in found["fallback_details"]
        assert await kept.exec("cold", "echo alive") == "alive\n"
        await kept.remove_containers()
        assert kept.log_lines(f"Runtime snapshot {old.id} is unhealthy")
        for spoiled in (await rebuild_of(client, old), old):
            await client.snapshots.delete(spoiled.id)
    new = await add_shared(kept, site)
    warm = await kept.run("after", TINY, "sleep", "1000")
    assert (warm["boot_method"], warm["runtime_snapshot_id"]) == ("warm", str(new.id))
    assert kept.temporary_files() == []
    for name, labels in (
        ("boots", {"method": "warm", "reason": "snapshot_damaged", "outcome": "failed"}),
        ("boots", {"method": "cold", "reason": "snapshot_damaged", "outcome": "succeeded"}),
        ("boots", {"method": "warm", "reason": "none", "outcome": "succeeded"}),
        ("failures", {"kind": "runtime-snapshot.boot-failed", "cause": "snapshot-damaged"}),
    ):
        assert await kept.counted(f"warmboot_{name}_total", **labels) == 1, (name, labels)


async def test_one_that_is_in_use_can_be_deleted_and_its_files_stay_as_long(
    kept: Site, site: Site
) -> None:
    heir = await kept.inspect("after")
    async with kept.store() as store:
        used = await store.snapshots.get(UUID(heir["runtime_snapshot_id"]))
    left = await add_shared(kept, site)
    await kept.cli("snapshot", "rm", str(used.id))
    assert str(used.id) not in (await kept.cli("snapshot", "ls", "--json")).out
    assert (used.snapshot_path / MEMORY_FILE).exists(), "a VM maps it"
    other = await kept.run("other", TINY, "sleep", "1000")
    assert (other["boot_method"], other["runtime_snapshot_id"]) == ("warm", str(left.id))
    assert await kept.exec("after", "echo alive") == "alive\n"
    await kept.cli("rm", "-f", "after")
    assert not used.snapshot_path.exists()
    await kept.remove_containers()
    assert kept.temporary_files() == []

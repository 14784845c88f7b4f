"""Housekeeping on real VMs: garbage, damage that nobody boots into, compression by age."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.support.vms import PROBE, Site, eventually, state_root

from warmboot.client import Client
from warmboot.model.runtime_snapshot import FRAMES_FILE, MEMORY_FILE, STATE_FILE, SnapshotState

HOURLY_TENTH_S = str(0.1 / 3600)
"""A tenth of a second, in hours."""


@pytest.fixture(scope="module")
async def kept(image_folder: Path) -> AsyncIterator[Site]:
    """A site of its own: its housekeeping must not disturb other tests."""
    settings = {"MANAGER_INTEGRITY_EVERY_H": "0", "MANAGER_COMPRESS_AFTER_H": "0"}
    async with Site.at(
        state_root() / "e2e-keep", prefix="wbk", subnet="198.19.220.0/22", settings=settings
    ) as site:
        await site.start()
        await site.cli(
            "runtime", "register", "--name", "default", "--no-snapshot", str(image_folder)
        )
        await site.cli("snapshot", "create", "default")
        yield site


async def restarted(site: Site, **settings: str) -> None:
    await site.stop()
    site.settings.update(settings)
    await site.start()


async def only(client: Client) -> Any:
    (snapshot,) = [one for one in await client.snapshots.list() if one.state == "ready"]
    return snapshot


async def test_gc_says_what_would_go_and_removes_it_while_a_container_runs(kept: Site) -> None:
    async with kept.store() as store, kept.client() as client:
        (used,) = await store.snapshots.list()
        await kept.run("user", PROBE, "sleep", "1000")
        # A row without files: an old snapshot that nobody has used for a long time.
        old = replace(
            used,
            id=uuid4(),
            state=SnapshotState.CREATING,
            created_at=datetime(2025, 1, 1, tzinfo=UTC),
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
        again = await kept.run("again", PROBE, "sleep", "1000")
        assert again["boot_method"] == "warm"
        await kept.remove_containers()


async def test_what_is_cold_is_compressed_by_itself_and_still_boots_warm(kept: Site) -> None:
    await restarted(kept, MANAGER_COMPRESS_AFTER_H=HOURLY_TENTH_S, MANAGER_UNPACK_AFTER_BOOTS="0")
    async with kept.client() as client:

        async def compressed() -> Any:
            snapshot = await only(client)
            return snapshot if snapshot.metadata["compressed"] else None

        snapshot = await eventually(compressed, "it is compressed", 120)
        folder = Path(snapshot.snapshot_path)
        assert (folder / FRAMES_FILE).exists()
        assert not (folder / MEMORY_FILE).exists()
        metadata = snapshot.metadata
        assert metadata["compressed_size_bytes"] < metadata["mem_nonzero_bytes"]
        found = await kept.run("warm", PROBE, "sleep", "1000")
        assert found["boot_method"] == "warm"
        await kept.remove_containers()
    await restarted(kept, MANAGER_COMPRESS_AFTER_H="0")
    async with kept.client() as client:
        await kept.cli("snapshot", "unpack", snapshot.id)
        assert (await only(client)).metadata["compressed"] is False
        assert (folder / MEMORY_FILE).exists()


async def test_damage_is_found_in_the_background_and_rebuilt(kept: Site) -> None:
    async with kept.client() as client:
        old = await only(client)
        state = Path(old.snapshot_path) / STATE_FILE
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 0xFF
        state.write_bytes(content)
        await restarted(kept, MANAGER_INTEGRITY_EVERY_H=str(2 / 3600))

        async def told() -> list[str]:
            events = await client.events.list(limit=1000)
            kinds = [event.kind for event in events if event.subject_id == old.id]
            return [kind for kind in kinds if kind.endswith((".damaged", ".unhealthy"))]

        assert await eventually(told, "the damage is found", 60)

        async def rebuilt() -> Any:
            ready = [one for one in await client.snapshots.list() if one.state == "ready"]
            return next((one for one in ready if one.replaces == old.id), None)

        new = await eventually(rebuilt, "it is rebuilt", 300)
        found = await kept.run("after", PROBE, "sleep", "1000")
        assert (found["boot_method"], found["runtime_snapshot_id"]) == ("warm", new.id)
        await kept.remove_containers()
    assert kept.temporary_files() == []

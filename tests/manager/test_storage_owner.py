"""A manager with another database leaves what lies in the storage folder alone, and says so."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, vmm_pids

from warmboot.host.storage.storage_owner import OWNER_FILE, owner_of
from warmboot.manager.check_storage_owner import STORE_ID
from warmboot.model.container import ContainerState
from warmboot.model.errors import Conflict


@pytest.fixture
async def used(place: Lab) -> AsyncIterator[Lab]:
    """With an image, a snapshot, and a container that runs."""
    async with place.manager() as manager:
        await manager.snapshot()
        await manager.run()
    yield place
    async with place.manager() as manager:
        assert (await manager.containers.get("web")).state is ContainerState.RUNNING
        assert len(await manager.snapshots.list()) == 1
        await check(manager.running)
        await manager.containers.delete("web", force=True)


def another(place: Lab) -> str:
    return f"sqlite:///{place.root}/another.db"


def things(place: Lab) -> list[Path]:
    folders = ("runtime-images/*", "runtime-snapshots/*/*", "vms/*")
    return sorted(path for folder in folders for path in place.storage.glob(folder))


async def test_with_an_empty_database_it_refuses_and_harms_nothing(used: Lab) -> None:
    before, vms = things(used), vmm_pids(used.storage)
    for _ in range(2):  # the second time there is a database, and still it is not the one
        with pytest.raises(Conflict, match="belongs to another database") as told:
            async with used.manager(database_url=another(used)):
                pass
    assert (things(used), vmm_pids(used.storage)) == (before, vms)
    assert len(vms) == 1
    for part in ("MANAGER_DATABASE_URL", str(used.storage / OWNER_FILE)):
        assert part in told.value.resolution


async def test_a_database_with_an_id_of_its_own_is_refused_too(used: Lab) -> None:
    elsewhere = {"storage_root": used.root / "elsewhere", "database_url": another(used)}
    async with used.manager(**elsewhere):
        pass
    before = things(used)
    with pytest.raises(Conflict) as told:
        async with used.manager(database_url=another(used)):
            pass
    assert things(used) == before
    for root in (used.storage, used.root / "elsewhere"):
        assert str(await owner_of(root)) in told.value.details


async def test_a_folder_from_before_there_were_ids_goes_on(used: Lab) -> None:
    (used.storage / OWNER_FILE).unlink()
    with sqlite3.connect(used.storage / "warmboot.db") as database:
        database.execute("DELETE FROM meta WHERE key = ?", (STORE_ID,))
    with pytest.raises(Conflict, match="belongs to another database"):
        async with used.manager(database_url=another(used)):
            pass
    async with used.manager() as manager:
        assert await owner_of(used.storage) == await manager.store.meta.get(STORE_ID) is not None


async def test_a_backup_of_the_database_is_the_same_one(used: Lab) -> None:
    with (
        sqlite3.connect(used.storage / "warmboot.db") as database,
        sqlite3.connect(used.root / "another.db") as backup,
    ):
        database.backup(backup)
    async with used.manager(database_url=another(used)) as manager:
        assert (await manager.containers.get("web")).state is ContainerState.RUNNING


async def test_who_empties_the_file_gives_the_folder_to_the_new_database(place: Lab) -> None:
    async with place.manager() as manager:
        await manager.snapshot()
        await manager.run()
    (place.storage / OWNER_FILE).write_text("")
    async with place.manager(database_url=another(place)) as manager:
        assert things(place) == []
        assert vmm_pids(place.storage) == []
        await manager.snapshot()
    with pytest.raises(Conflict):
        async with place.manager():
            pass


async def test_a_start_that_was_killed_before_the_file_was_written_goes_on(place: Lab) -> None:
    async with place.manager() as manager:
        known = await manager.store.meta.get(STORE_ID)
    (place.storage / OWNER_FILE).unlink()
    async with place.manager():
        assert await owner_of(place.storage) == known

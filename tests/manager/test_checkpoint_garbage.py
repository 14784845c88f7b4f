"""Workers' checkpoints keep their budget; what belongs to none is removed, and nothing else."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text
from tests.support.managers import Lab, Manager, eventually

from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.manager.garbage.choose_garbage import GRACE
from warmboot.model.checkpoint import Checkpoint, CheckpointState, Versions
from warmboot.model.errors import NotFound
from warmboot.model.garbage import Garbage, Kind, Why
from warmboot.model.worker import RUNTIME, Worker, WorkerSpec, WorkerState

MIB = 1 << 20


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody owns goes without a grace."""
    monkeypatch.setitem(GRACE, Kind.CHECKPOINT_FOLDER, timedelta(0))


async def _paused(manager: Manager, name: str = "w1") -> Worker:
    worker = Worker(
        id=uuid4(),
        spec=WorkerSpec(name, "image"),
        state=WorkerState.CREATING,
        created_at=datetime.now(UTC),
        runtime=RUNTIME,
    )
    await manager.store.workers.add(worker)
    return await manager.store.workers.set_state(worker.id, WorkerState.PAUSED)


async def _checkpoint(
    manager: Manager, worker: Worker, name: str, age_h: float, *, automatic: bool = True
) -> Checkpoint:
    """With a MiB of memory on the disk."""
    folder = CheckpointFolder(manager.lab.storage / "checkpoints" / str(worker.id) / name)
    (folder.begin().memory / "pages-1.img").write_bytes(bytes([1]) * MIB)
    folder.publish()
    made = Checkpoint(
        id=uuid4(),
        worker_id=worker.id,
        name=name,
        state=CheckpointState.READY,
        created_at=datetime.now(UTC) - timedelta(hours=age_h),
        versions=Versions("", "", "", ""),
        image_digest="",
        size_bytes=MIB,
        automatic=automatic,
        folder=folder.path,
    )
    await manager.store.checkpoints.add(made)
    return made


async def _collect(manager: Manager, *, dry_run: bool = False) -> list[Garbage]:
    return list((await manager.services.garbage.collect(dry_run=dry_run)).removed)


async def test_the_oldest_automatic_ones_go_until_the_budget_is_kept(place: Lab) -> None:
    async with place.manager(checkpoint_budget_mib=4) as manager:
        worker = await _paused(manager)
        named = await _checkpoint(manager, worker, "mine", 9, automatic=False)
        paused_into = await _checkpoint(manager, worker, "a1", 8)
        await manager.store.workers.update(worker.id, paused_into=paused_into.id)
        oldest = await _checkpoint(manager, worker, "a2", 7)
        older = await _checkpoint(manager, worker, "a3", 6)
        newest = await _checkpoint(manager, worker, "a4", 5)
        chosen = await _collect(manager, dry_run=True)
        assert [(one.kind, one.name, one.why) for one in chosen] == [
            (Kind.CHECKPOINT, "w1/a2", Why.OVER_BUDGET),
            (Kind.CHECKPOINT, "w1/a3", Why.OVER_BUDGET),
        ]
        assert all(one.size_bytes > MIB for one in chosen)
        assert await _collect(manager) == chosen
        rows = await manager.store.checkpoints.of_worker(worker.id)
        assert {row.id for row in rows} == {named.id, paused_into.id, newest.id}
        for gone in (oldest, older):
            assert gone.folder is not None
            assert not gone.folder.exists()
        assert await _collect(manager) == []
        told = [e.data for e in await manager.events_of(worker.id)]
        assert [(one["checkpoint"], one["why"]) for one in told] == [
            ("a2", "over-budget"),
            ("a3", "over-budget"),
        ]


async def test_what_is_needed_stays_however_small_the_budget(place: Lab) -> None:
    async with place.manager(checkpoint_budget_mib=1) as manager:
        paused = await _paused(manager)
        await _checkpoint(manager, paused, "mine", 9, automatic=False)
        kept_in = await _checkpoint(manager, paused, "a1", 8)
        await manager.store.workers.update(paused.id, paused_into=kept_in.id)
        resuming = await _paused(manager, "w2")
        for age_h in (1, 2, 3):
            await _checkpoint(manager, resuming, f"a{age_h}", age_h)
        await manager.store.workers.set_state(resuming.id, WorkerState.RESUMING)
        assert await _collect(manager) == []
        await manager.store.workers.set_state(resuming.id, WorkerState.PAUSED)
        assert [one.name for one in await _collect(manager)] == ["w2/a3", "w2/a2"]


async def test_without_a_budget_all_stay(place: Lab) -> None:
    async with place.manager() as manager:
        worker = await _paused(manager)
        for age_h in (1, 2, 3):
            await _checkpoint(manager, worker, f"a{age_h}", age_h)
        assert await _collect(manager) == []


@pytest.mark.usefixtures("at_once")
async def test_what_belongs_to_no_checkpoint_goes_and_a_dry_run_shows_it(place: Lab) -> None:
    async with place.manager() as manager:
        worker = await _paused(manager)
        made = await _checkpoint(manager, worker, "a1", 1)
        assert made.folder is not None
        unknown = made.folder.with_name("unknown")
        half = made.folder.with_name(".a1.making")
        nobodys = made.folder.parent.with_name(str(uuid4())) / "cp"
        for folder in (unknown, half, nobodys):
            folder.mkdir(parents=True)
        expected = {nobodys.parent: "orphan", unknown: "orphan", half: "orphan"}
        chosen = await _collect(manager, dry_run=True)
        assert {one.path: one.why for one in chosen} == expected
        assert {one.path for one in await _collect(manager)} == expected.keys()
        assert not any(path.exists() for path in expected)
        assert made.folder.is_dir()


async def test_what_was_made_just_now_is_given_time(place: Lab) -> None:
    async with place.manager() as manager:
        worker = await _paused(manager)
        folder = place.storage / "checkpoints" / str(worker.id) / "unknown"
        folder.mkdir(parents=True)
        assert await _collect(manager) == []


@pytest.mark.usefixtures("at_once")
async def test_one_that_is_just_being_made_stays(place: Lab) -> None:
    async with place.manager() as manager:
        worker = await _paused(manager)
        made = await _checkpoint(manager, worker, "a1", 1)
        await manager.store.checkpoints.remove(made.id)
        creating = replace(made, state=CheckpointState.CREATING)
        await manager.store.checkpoints.add(creating)
        assert made.folder is not None
        half = made.folder.with_name(".a1.making")
        half.mkdir()
        assert await _collect(manager) == []
        assert half.is_dir()


@pytest.mark.usefixtures("at_once")
async def test_as_long_as_a_row_cannot_be_read_nothing_counts_as_nobodys(place: Lab) -> None:
    async with place.manager(checkpoint_budget_mib=1) as manager:
        worker = await _paused(manager)
        for age_h in (1, 2, 3):
            await _checkpoint(manager, worker, f"a{age_h}", age_h)
        orphan = place.storage / "checkpoints" / str(uuid4())
        orphan.mkdir()
        async with manager.store._database.write() as connection:
            await connection.execute(text("UPDATE checkpoints SET state = 'x' WHERE name = 'a1'"))
        assert await _collect(manager) == []
        assert orphan.is_dir()


@pytest.mark.usefixtures("at_once")
async def test_another_disk_may_have_folders_of_others(place: Lab, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    async with place.manager(checkpoint_root=disk) as manager:
        theirs = disk / str(uuid4()) / "cp"
        theirs.mkdir(parents=True)
        assert await _collect(manager) == []
        assert theirs.is_dir()


async def test_one_that_is_being_exported_stays(place: Lab) -> None:
    async with place.manager(checkpoint_budget_mib=1) as manager:
        worker = await _paused(manager)
        for age_h in (1, 2, 3):
            await _checkpoint(manager, worker, f"a{age_h}", age_h)
        garbage = manager.services.garbage._checkpoints  # type: ignore[attr-defined]
        exported = await manager.store.checkpoints.named(worker.id, "a3")
        with garbage._in_use.held(exported.id):
            assert [one.name for one in await _collect(manager)] == ["w1/a2"]
        assert [one.name for one in await _collect(manager)] == ["w1/a3"]
        with pytest.raises(NotFound):
            await manager.store.checkpoints.named(worker.id, "a3")


async def test_what_is_cold_is_compressed_and_its_sizes_are_told(place: Lab) -> None:
    async with place.manager() as manager:
        worker = await _paused(manager)
        made = await _checkpoint(manager, worker, "a1", 2)
        assert made.folder is not None
        pages = made.folder / "memory" / "pages-1.img"
        os.utime(pages, (0, 0))
        young = await _checkpoint(manager, worker, "a2", 2)
    async with place.manager(compress_after_h=1) as manager:

        async def compressed() -> bool | None:
            told = [event.kind for event in await manager.events_of(worker.id)]
            return True if "worker.checkpoint-compressed" in told else None

        # At low priority it has what others leave of the processors.
        await eventually(compressed, "the old one is compressed", timeout_s=300)
        assert [path.name for path in pages.parent.iterdir()] == ["pages-1.img.zst"]
        assert young.folder is not None
        assert [path.name for path in (young.folder / "memory").iterdir()] == ["pages-1.img"]
        now = await manager.store.checkpoints.get(made.id)
        assert now.size_bytes == MIB
        assert now.stored_bytes is not None
        assert now.stored_bytes < MIB / 2

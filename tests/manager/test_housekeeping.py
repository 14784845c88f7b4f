"""What the manager does by itself: compresses, unpacks, checks sums, collects every day."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from tests.support.invariants import check
from tests.support.managers import Lab, Manager

from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.manager.check_storage_owner import STORE_ID
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.housekeeping import LAST_COLLECTION
from warmboot.manager.protocols import Until
from warmboot.manager.snapshots.choose_form import CHECKED_AT
from warmboot.model.container import ContainerState
from warmboot.model.errors import Conflict, DiskFull, IllegalTransition, NotFound, Unavailable
from warmboot.model.journal.event import Event
from warmboot.model.runtime_snapshot import (
    DISK_FILE,
    FRAMES_FILE,
    MEMORY_FILE,
    STATE_FILE,
    RuntimeSnapshot,
    SnapshotManifest,
    SnapshotState,
)
from warmboot.model.tenants.boot import BootMethod
from warmboot.store.repositories.meta import MetaRepository

AT_ONCE = 0.2 / 3600
"""Hours: so that a test need not wait."""


def form_on_disk(snapshot: RuntimeSnapshot) -> str:
    folder = Path(snapshot.snapshot_path)
    (form,) = [name for name in (MEMORY_FILE, FRAMES_FILE) if (folder / name).exists()]
    return form


async def event(manager: Manager, snapshot: RuntimeSnapshot, kind: str) -> Event:
    async def look() -> Event | None:
        events = await manager.events_of(snapshot.id)
        return next((e for e in events if e.kind == f"runtime-snapshot.{kind}"), None)

    return await manager.until(look, f"the event {kind}")


async def changed(
    manager: Manager, snapshot: RuntimeSnapshot, *, compressed: bool
) -> RuntimeSnapshot:
    async def look() -> RuntimeSnapshot | None:
        now = await manager.snapshots.get(snapshot.id)
        return now if now.metadata.get("compressed") is compressed else None

    return await manager.until(look, f"compressed is {compressed}")


async def test_it_is_compressed_and_unpacked_as_asked(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    await manager.services.forms.compress(snapshot.id)
    now = await changed(manager, snapshot, compressed=True)
    assert form_on_disk(snapshot) == FRAMES_FILE
    assert now.metadata["compressed_size_bytes"] > 0
    assert now.metadata["mem_size_bytes"] == snapshot.metadata["mem_size_bytes"]
    told = await event(manager, snapshot, "compressed")
    assert told.data["size_bytes"] == now.metadata["size_bytes"]
    await check(manager.running, ready=[snapshot])
    assert (await manager.run("from-compressed")).boot_method is BootMethod.WARM
    await manager.services.forms.unpack(snapshot.id)
    now = await changed(manager, snapshot, compressed=False)
    assert form_on_disk(snapshot) == MEMORY_FILE
    assert now.metadata["compressed_size_bytes"] is None
    assert (await manager.run("from-plain")).boot_method is BootMethod.WARM
    await check(manager.running, ready=[snapshot])


async def begun(change: Callable[[UUID], Awaitable[None]], snapshot: RuntimeSnapshot) -> bool:
    try:
        await change(snapshot.id)
    except Conflict:  # the one before has told that it is done, and is just about to end
        return False
    return True


async def test_what_is_compressed_already_stays_so(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    await manager.services.forms.compress(snapshot.id)
    await event(manager, snapshot, "compressed")
    frames = (Path(snapshot.snapshot_path) / FRAMES_FILE).stat()
    await manager.until(lambda: begun(manager.services.forms.compress, snapshot))
    await check(manager.running, ready=[snapshot])
    assert (Path(snapshot.snapshot_path) / FRAMES_FILE).stat().st_mtime_ns == frames.st_mtime_ns


async def test_who_asks_for_the_form_that_it_has_is_told_at_once(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    """As when housekeeping has compressed it just before: nobody waits for an event in vain."""
    for form, change in (
        ("unpacked", manager.services.forms.unpack),
        ("compressed", manager.services.forms.compress),
    ):
        for _ in range(2):
            before = await manager.services.events.list(limit=1000)
            await manager.until(partial(begun, change, snapshot))

            async def told(form: str = form, since: int = before[-1].id) -> Event | None:
                events = await manager.services.events.list(after=since)
                return next((e for e in events if e.kind == f"runtime-snapshot.{form}"), None)

            last = await manager.until(told, f"the event {form}")
    assert last.data["size_bytes"] == last.data["was_bytes"]


async def test_only_what_is_ready_changes_its_form(manager: Manager) -> None:
    image = await manager.image()
    manager.lab.set(docker_s=0.5)
    building = await manager.snapshots.create(image.id, None)
    with pytest.raises(IllegalTransition):
        await manager.services.forms.compress(building)
    with pytest.raises(NotFound):
        await manager.services.forms.unpack(image.id)
    await manager.snapshot_until(building, SnapshotState.READY)
    manager.lab.set(docker_s=0)


async def test_one_change_at_a_time(
    snapshot: RuntimeSnapshot, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on, go_on = asyncio.Event(), asyncio.Event()
    real = type(manager.host.snapshots).compress

    async def slow(self: SnapshotFiles, path: Path) -> SnapshotManifest:
        going_on.set()
        await go_on.wait()
        return await real(self, path)

    monkeypatch.setattr(type(manager.host.snapshots), "compress", slow)
    await manager.services.forms.compress(snapshot.id)
    await going_on.wait()
    with pytest.raises(Conflict, match="already"):
        await manager.services.forms.unpack(snapshot.id)
    # A collection leaves alone what is worked on, and so does the limit.
    assert (await manager.services.garbage.collect()).removed == ()
    go_on.set()
    await changed(manager, snapshot, compressed=True)
    await check(manager.running, ready=[snapshot])


async def test_a_disk_that_fills_up_meanwhile_leaves_the_old_form(
    snapshot: RuntimeSnapshot, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:

    async def full(self: SnapshotFiles, path: Path) -> SnapshotManifest:
        raise DiskFull("the disk is full: made to be")

    with monkeypatch.context() as patched:
        patched.setattr(type(manager.host.snapshots), "compress", full)
        await manager.services.forms.compress(snapshot.id)
        told = await event(manager, snapshot, "compress-failed")
    assert told.data["error"]["code"] == "disk-full"
    assert form_on_disk(snapshot) == MEMORY_FILE
    assert (await manager.snapshots.get(snapshot.id)).state is SnapshotState.READY
    assert (await manager.run()).boot_method is BootMethod.WARM
    await check(manager.running, ready=[snapshot])


async def test_a_flipped_bit_in_a_frame_is_found_and_the_boot_goes_on_cold(
    snapshot: RuntimeSnapshot,
    manager: Manager,
) -> None:
    await manager.services.forms.compress(snapshot.id)
    await changed(manager, snapshot, compressed=True)
    flip(Path(snapshot.snapshot_path) / FRAMES_FILE)
    container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert container.boot_method is BootMethod.COLD
    await check(manager.running, ready=[snapshot])  # rebuilt


async def test_deleting_it_while_it_is_compressed_leaves_nothing(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    await manager.services.forms.compress(snapshot.id)
    await manager.snapshots.delete(snapshot.id)
    await check(manager.running)
    assert await manager.snapshots.list(include_deleted=True) == ()
    assert list(manager.host.snapshots.root.glob("*/*")) == []


# -- by itself -------------------------------------------------------------------------------------


async def test_what_is_cold_is_compressed_and_what_is_hot_unpacked(place: Lab) -> None:
    async with place.manager(compress_after_h=AT_ONCE, unpack_after_boots=2) as manager:
        snapshot = await manager.snapshot()
        await changed(manager, snapshot, compressed=True)
        for name in ("one", "two", "three"):
            assert (await manager.run(name)).boot_method is BootMethod.WARM
        await changed(manager, snapshot, compressed=False)
        await check(manager.running, ready=[snapshot])


async def test_what_runs_keeps_its_snapshot_plain(place: Lab) -> None:
    async with place.manager() as manager:
        snapshot = await manager.snapshot()
        await manager.run()
    async with place.manager(compress_after_h=AT_ONCE) as manager:
        await asyncio.sleep(0.6)  # several rounds
        assert (await manager.snapshots.get(snapshot.id)).metadata["compressed"] is False
        await manager.containers.delete("web", force=True)
        await changed(manager, snapshot, compressed=True)


async def test_zero_turns_everything_off(place: Lab) -> None:
    off = dict.fromkeys(("gc_every_h", "compress_after_h", "integrity_every_h"), 0)
    async with place.manager(**off, unpack_after_boots=0) as manager:
        snapshot = await manager.snapshot()
        (Path(snapshot.snapshot_path) / STATE_FILE).unlink()
        await asyncio.sleep(0.4)  # several rounds
        now = await manager.snapshots.get(snapshot.id)
        assert (now.state, now.metadata["compressed"]) == (SnapshotState.READY, False)
        await manager.snapshots.delete(snapshot.id)


async def test_garbage_is_collected_every_day(place: Lab) -> None:
    async with place.manager() as manager:
        await manager.until(lambda: manager.store.meta.get(LAST_COLLECTION), "the first look")
        assert await manager.events_of("garbage") == [], "a start is no reason"
        yesterday = datetime.now(UTC) - timedelta(hours=25)
        await manager.store.meta.set(LAST_COLLECTION, yesterday.isoformat())
    # With the other interval so that it looks at all often.
    async with place.manager(gc_every_h=24, integrity_every_h=AT_ONCE) as manager:

        async def collected() -> bool | None:
            return True if await manager.events_of("garbage") else None

        await manager.until(collected, "a collection")
        await asyncio.sleep(0.3)  # several rounds
        assert len(await manager.events_of("garbage")) == 1, "the next one is due tomorrow"


async def test_a_mistake_in_one_round_does_not_end_the_later_ones(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[datetime] = []

    async def mistaken(self: CollectGarbage) -> None:
        tried.append(datetime.now(UTC))
        raise ValueError("badly formed hexadecimal UUID string")

    async with place.manager() as manager:
        yesterday = datetime.now(UTC) - timedelta(hours=25)
        await manager.store.meta.set(LAST_COLLECTION, yesterday.isoformat())
    async with place.manager(gc_every_h=24, compress_after_h=AT_ONCE) as manager:
        with monkeypatch.context() as patched, capture_logs() as logged:
            patched.setattr(CollectGarbage, "collect", mistaken)

            async def twice() -> bool:
                return len(tried) >= 2

            await manager.until(twice, "it is tried again")
            # Nor does it keep the others from their turn.
            await changed(manager, await manager.snapshot(), compressed=True)
        assert tried[1] - tried[0] > timedelta(seconds=0.3), "not in every look"
        (first, *_) = [line for line in logged if line["log_level"] == "error"]
        assert isinstance(first["exc_info"], ValueError)
        assert await manager.store.meta.get(LAST_COLLECTION) == yesterday.isoformat(), "still due"
        assert failures(manager, "housekeeping") == len(tried)

        async def collected() -> bool | None:
            return True if await manager.events_of("garbage") else None

        await manager.until(collected, "a collection, once it can")


async def test_a_database_that_does_not_answer_ends_no_work(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MetaRepository.get

    async def refused(self: MetaRepository, key: str) -> str | None:
        if key == STORE_ID:  # without that it would not even start
            return await real(self, key)
        raise Unavailable("the database does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(MetaRepository, "get", refused)
        async with place.manager(integrity_every_h=AT_ONCE) as manager:

            async def both() -> bool:
                works = ("housekeeping", "look-after-snapshots")
                return all(failures(manager, work) for work in works)

            await manager.until(both, "both have failed")
            patched.undo()
            snapshot = await manager.snapshot()
            await event(manager, snapshot, "checked")


def failures(manager: Manager, work: str) -> float:
    metrics = manager.services.metrics
    assert metrics is not None
    return (
        metrics.registry.get_sample_value("warmboot_background_failures_total", {"work": work}) or 0
    )


# -- integrity -------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """One byte in the middle is another."""
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


async def test_what_is_intact_is_noted_and_told(place: Lab) -> None:
    async with place.manager(integrity_every_h=AT_ONCE) as manager:
        snapshot = await manager.snapshot()
        told = await event(manager, snapshot, "checked")
        assert told.data["seconds"] >= 0

        async def noted() -> str | None:
            return (await manager.snapshots.get(snapshot.id)).metadata.get(CHECKED_AT)

        assert datetime.fromisoformat(await manager.until(noted)) > snapshot.created_at
        await check(manager.running, ready=[snapshot])


@pytest.mark.parametrize("damage", [STATE_FILE, MEMORY_FILE, DISK_FILE, "folder"])
async def test_damage_is_found_in_the_background_and_mended(place: Lab, damage: str) -> None:
    """Nobody boots: it is the check alone that finds it."""
    async with place.manager(integrity_every_h=0) as manager:
        snapshot = await manager.snapshot()
    folder = Path(snapshot.snapshot_path)
    shutil.rmtree(folder) if damage == "folder" else flip(folder / damage)
    async with place.manager(integrity_every_h=AT_ONCE) as manager:
        told = await event(manager, snapshot, "damaged")
        assert told.data["error"]["code"] == "snapshot-damaged"

        async def rebuilt() -> RuntimeSnapshot | None:
            ready = [s for s in await manager.snapshots.list() if s.state is SnapshotState.READY]
            return next((s for s in ready if s.id != snapshot.id), None)

        successor = await manager.until(rebuilt, "its successor is ready")
        assert (await manager.run()).runtime_snapshot_id == successor.id
        await check(manager.running, ready=[snapshot])


async def test_a_damaged_one_is_not_restored_while_its_successor_is_built(place: Lab) -> None:
    async with place.manager(integrity_every_h=0) as manager:
        snapshot = await manager.snapshot()
    flip(Path(snapshot.snapshot_path) / MEMORY_FILE)
    place.set(docker_s=600)
    async with place.manager(integrity_every_h=AT_ONCE, snapshot_wait_s=0) as manager:
        await manager.snapshot_until(snapshot.id, SnapshotState.UNHEALTHY)
        container_id = await manager.create()
        await manager.until(lambda: manager.vmm_runs(container_id), "it has chosen")
        place.set(docker_s=0)
        container = await manager.wait(str(container_id), Until.RUNNING)
        assert container.boot_method is BootMethod.COLD
        await check(manager.running, ready=[snapshot])

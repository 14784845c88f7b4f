"""``kill -9`` while memory changes its form, or garbage is collected; and of VMMs under a build.

As in ``test_killed_manager``: the next manager makes it good, and nothing that was ready is lost.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.doomed import MIDWAY
from tests.faults.dying_helper import dying
from tests.faults.test_killed_manager import BUILD, Die, clear, die, names, place, points, reaper
from tests.manager.test_collect_garbage import used
from tests.manager.test_housekeeping import changed, event
from tests.support import prepared_labs
from tests.support.absent import ABSENT
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, eventually, vmm_pids

from warmboot.manager.snapshots.compress_snapshot import CompressSnapshot
from warmboot.model.errors import Conflict
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootMethod

__all__ = ["die", "place", "reaper"]

COMPRESS, UNPACK = (
    points(saga)
    for saga in CompressSnapshot(ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT).sagas
)

BETWEEN = [
    ("forms", "_change", "before"),
    ("forms", "_change", "after"),
    ("snapshots", "update_metadata", "before"),
    ("snapshots", "update_metadata", "after"),
]


async def prepare(place: Lab, *, compressed: bool = False) -> list[RuntimeSnapshot]:
    if not compressed:
        return await prepared_labs.prepare(place, snapshot=True)

    async def build(template: Lab) -> RuntimeSnapshot:
        (made,) = await prepared_labs.prepare(template, snapshot=True)
        async with template.manager() as manager:
            await compress(manager, made)
        return made

    template, snapshot = await prepared_labs.copied(place, "compressed", build)
    return [prepared_labs.moved(snapshot, template, place)]


async def compress(manager: Manager, snapshot: RuntimeSnapshot) -> None:
    await manager.services.forms.compress(snapshot.id)
    await changed(manager, snapshot, compressed=True)


@pytest.mark.parametrize("at", [*COMPRESS, *BETWEEN, MIDWAY], ids=names)
async def test_killed_while_it_compresses(place: Lab, die: Die, at: tuple[str, ...]) -> None:
    ready = await prepare(place)
    await die("compress", at)
    await one_whole_form(place, ready)


@pytest.mark.parametrize("at", [*UNPACK, *BETWEEN, MIDWAY], ids=names)
async def test_killed_while_it_unpacks(place: Lab, die: Die, at: tuple[str, ...]) -> None:
    ready = await prepare(place, compressed=True)
    await die("unpack", at)
    await one_whole_form(place, ready)


async def one_whole_form(place: Lab, ready: list[RuntimeSnapshot]) -> None:
    """The very snapshot is ready, its row says which form it has, and it boots."""
    await nobody_writes(ready[0].snapshot_path)
    async with place.manager() as manager:
        await check(manager.running, ready=ready)
        (snapshot,) = await manager.snapshots.list(include_deleted=True)
        assert (snapshot.id, snapshot.state) == (ready[0].id, SnapshotState.READY)
        assert (await manager.run("proof")).boot_method is BootMethod.WARM
        await clear(manager, ready)


async def nobody_writes(folder: Path) -> None:
    """A helper ends with its manager: it must not go on beside the next one's."""

    async def all_closed() -> bool:
        return not any(folder in path.parents for path in _open_files())

    await eventually(all_closed, f"no process has a file of {folder} open")


def _open_files() -> Iterator[Path]:
    """What the processes of this machine have open, as they come and go."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for name in os.listdir(process / "fd"):  # noqa: PTH208
                with contextlib.suppress(OSError):
                    yield (process / "fd" / name).readlink()


@pytest.mark.parametrize("verb", ["compress", "unpack"])
async def test_a_helper_that_is_killed_midway_leaves_the_old_form(place: Lab, verb: str) -> None:
    """As the kernel does when memory is short; the manager lives."""
    ready = await prepare(place, compressed=verb == "unpack")
    async with place.manager() as manager:
        forms = manager.host.snapshots._forms
        change, real = getattr(manager.services.forms, verb), forms._at_low_priority
        forms._at_low_priority = dying("helper")
        await change(ready[0].id)
        told = await event(manager, ready[0], f"{verb}-failed")
        assert told.data["error"]["brief"] == "a helper process ended with -9"
        forms._at_low_priority = real
        await check(manager.running, ready=ready)
        assert (await manager.run("meanwhile")).boot_method is BootMethod.WARM

        async def begun() -> bool:
            with contextlib.suppress(Conflict):  # the one that failed is just about to end
                await change(ready[0].id)
                return True
            return False

        await manager.until(begun)
        await changed(manager, ready[0], compressed=verb == "compress")
        await clear(manager, ready)


@pytest.mark.parametrize("left", ["snapshot.mem.zst", "snapshot.mem.zst.new", "metadata.json.new"])
async def test_what_a_killed_change_has_left_is_tidied(place: Lab, left: str, die: Die) -> None:
    """As if it had died within the change of the files."""
    ready = await prepare(place)
    await die("compress", COMPRESS[0])
    (Path(ready[0].snapshot_path) / left).write_bytes(b"half")
    await one_whole_form(place, ready)


COLLECTING = [
    ("snapshots", "retire", "before"),
    ("snapshots", "retire", "after"),
    ("files", "discard", "before"),
    ("files", "discard", "after"),
    ("snapshots", "purge", "before"),
    ("snapshots", "purge", "after"),
    ("disk-scan", "remove", "before"),
    ("disk-scan", "remove", "after"),
    ("cache", "evict", "before"),
    ("cache", "evict", "after"),
]


@pytest.mark.parametrize("at", COLLECTING, ids=names)
async def test_killed_while_it_collects(place: Lab, die: Die, at: tuple[str, ...]) -> None:
    """An old snapshot, one that a container runs on, and an archive that is nobody's.

    What was unpacked of the one goes with it; what was of the other is over the budget, but goes
    only when no VM maps it any more.
    """
    (kept,) = await prepare(place, compressed=True)
    async with place.manager() as manager:
        old = await manager.snapshot(shape=Shape(1, 512))
        await compress(manager, old)
        await manager.run("user", shape=kept.shape)
        await manager.run("earlier", shape=old.shape)
        await manager.containers.delete("earlier", force=True)
        cached = {entry.snapshot_id for entry in await manager.host.storage.cache.entries()}
        assert cached == {kept.id, old.id}
        await used(manager, old, 31)
        await used(manager, kept, 31)
        orphan = make_orphan(manager)
    await die("collect", at, cache_budget_mib=0)
    async with place.manager(cache_budget_mib=0) as manager:
        await check(manager.running, ready=[kept])
        await manager.services.garbage.collect()
        await check(manager.running, ready=[kept])
        assert not orphan.exists()
        assert [entry.snapshot_id for entry in await manager.host.storage.cache.entries()] == [
            kept.id
        ]
        assert [s.id for s in await manager.snapshots.list(include_deleted=True)] == [kept.id]
        assert (await manager.run("proof")).boot_method is BootMethod.WARM
        for name in ("user", "proof"):
            await manager.containers.delete(name, force=True)
        await manager.services.garbage.collect()
        assert await manager.host.storage.cache.entries() == []
        await clear(manager, [kept])


def make_orphan(manager: Manager) -> Path:
    """Of a kind that a start does not sweep."""
    archive = manager.host.storage.root / "archives" / ("cd" * 32)
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(b"x")
    os.utime(archive, (0, 0))
    return archive


@pytest.mark.parametrize("work", ["build", "rebuild"])
@pytest.mark.parametrize("at", BUILD, ids=names)
async def test_the_builder_is_killed_and_the_manager_lives(
    place: Lab, work: str, at: tuple[str, str]
) -> None:
    """A build that loses its VM is tried once more or fails; what served before still does."""
    killed: list[int] = []

    async def kill(saga: str, step: str) -> None:
        if (saga, step) == at and not killed:
            killed.append(len(vmm_pids(place.storage)))
            place.kill_everything()

    ready = await prepared_labs.prepare(place, snapshot=work == "rebuild")
    async with place.manager(kill, auto_rebuild=False) as manager:
        if ready:
            await manager.snapshots.rebuild(ready[0].id)
        else:
            await manager.snapshots.create((await manager.image()).id, None)
        await check(manager.running, ready=ready)
        assert killed, "it came to that step"
        await clear(manager, ready)

"""A runtime image whose files are not what they were when it was registered."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.support.managers import IMAGE_NAME, Lab, Manager, image_folder
from tests.support.rebuilds import event, ready

from warmboot.host.storage.image_files import note_image
from warmboot.manager.protocols import Check
from warmboot.model.container import Container
from warmboot.model.errors import ImageDamaged
from warmboot.model.runtime_snapshot import ROOTFS_FILE, RuntimeSnapshot, SnapshotState
from warmboot.model.tenants.boot import BootMethod, BootPolicy, FallbackReason
from warmboot.system.file_stamps import load_stamps, save_stamps, stamp

QUIET = {"auto_rebuild": False}


def flip(path: Path) -> None:
    """One bit in the middle; the same inode and size, and the modification time put back."""
    status = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def unnoticed(folder: Path, name: str) -> None:
    """As if the file had become another below the file system: its note looks right."""
    save_stamps(folder, load_stamps(folder) | {name: stamp(folder / name)})


def code(of: Container | RuntimeSnapshot) -> str | None:
    return None if of.error is None else of.error["code"]


async def damage_of(manager: Manager) -> str | None:
    (image,) = await manager.services.images.list()
    return None if image.damage is None else str(image.damage["details"])


async def image_check(manager: Manager) -> Check | None:
    checks = await manager.services.system.doctor()
    return next((check for check in checks if check.name == f"image {IMAGE_NAME}"), None)


async def test_nothing_is_booted_from_a_damaged_root_file_system_or_built_of_it(
    place: Lab,
) -> None:
    async with place.manager(**QUIET) as manager:
        snapshot = await manager.snapshot()
        image = await manager.image()
        flip(image.rootfs)
        container = await manager.run()
        assert code(container) == "image-damaged"
        assert container.error is not None
        assert str(image.rootfs) in container.error["details"]
        assert "warmboot runtime register" in container.error["resolution"]
        assert container.fallback_reason is FallbackReason.SNAPSHOT_DAMAGED
        assert (await manager.snapshots.get(snapshot.id)).state is SnapshotState.UNHEALTHY
        told = await event(manager, "runtime-image.damaged", image.id)
        assert told.data["error"]["code"] == "image-damaged"

        rebuild = await manager.snapshots.rebuild(snapshot.id)
        failed = await event(manager, "runtime-snapshot.failed", rebuild)
        assert failed.data["error"]["code"] == "image-damaged"
        assert ROOTFS_FILE in (await damage_of(manager) or "")
        found = await image_check(manager)
        assert found is not None
        assert not found.ok
        assert "runtime register" in found.remedy


@pytest.mark.parametrize("name", ["kernel", "rootfs.ext4", "disk.ext4"])
async def test_a_cold_boot_looks_at_every_file_of_the_image(place: Lab, name: str) -> None:
    async with place.manager(**QUIET) as manager:
        image = await manager.image()
        flip(image.path / name)
        container = await manager.run(boot=BootPolicy.COLD)
        assert code(container) == "image-damaged"
        assert name in (await damage_of(manager) or "")


async def test_sums_are_taken_before_a_snapshot_is_built(place: Lab) -> None:
    async with place.manager(**QUIET) as manager:
        image = await manager.image()
        flip(image.kernel)
        unnoticed(image.path, "kernel")
        snapshot_id = await manager.snapshots.create(image.id, None)
        states = (SnapshotState.READY, SnapshotState.UNHEALTHY)
        assert code(await manager.snapshot_until(snapshot_id, *states)) == "image-damaged"


async def test_after_a_damaged_snapshot_its_image_is_summed_before_a_cold_boot(
    place: Lab,
) -> None:
    async with place.manager(**QUIET) as manager:
        snapshot, image = await manager.snapshot(), await manager.image()
        flip(image.rootfs)
        unnoticed(image.path, ROOTFS_FILE)
        container = await manager.run()
        assert container.fallback_reason is FallbackReason.SNAPSHOT_DAMAGED
        assert code(container) == "image-damaged"
        assert (await manager.snapshots.get(snapshot.id)).state is SnapshotState.UNHEALTHY


async def test_damage_to_a_snapshot_alone_does_not_keep_its_image_from_a_cold_boot(
    place: Lab,
) -> None:
    async with place.manager(**QUIET) as manager:
        snapshot = await manager.snapshot()
        flip(snapshot.snapshot_path / "snapshot.mem")
        container = await manager.run()
        assert (container.boot_method, code(container)) == (BootMethod.COLD, None)
        assert await damage_of(manager) is None


async def test_a_root_file_system_that_changes_during_a_build_is_not_published(
    place: Lab,
) -> None:
    async def change(saga: str, step: str) -> None:
        if (saga, step) == ("build-snapshot", "freeze"):
            (image,) = await manager.services.images.list()
            flip(image.rootfs)

    async with place.manager(change, **QUIET) as manager:
        image = await manager.image()
        snapshot_id = await manager.snapshots.create(image.id, None)
        states = (SnapshotState.READY, SnapshotState.UNHEALTHY)
        assert code(await manager.snapshot_until(snapshot_id, *states)) == "image-damaged"
        assert list(manager.host.snapshots.root.glob("*/*")) == []


async def test_a_good_copy_that_is_registered_makes_the_image_whole_and_its_snapshots_new(
    place: Lab,
) -> None:
    async with place.manager() as manager:
        snapshot, image = await manager.snapshot(), await manager.image()
        flip(image.rootfs)
        await manager.run("lost")
        await event(manager, "runtime-snapshot.put-off", snapshot.id)
        assert (await manager.snapshots.get(snapshot.id)).rebuild_failures == 0

        registered = await manager.services.images.register(
            name=IMAGE_NAME, path=await image_folder()
        )
        assert (registered.image.id, registered.image.damage) == (image.id, None)
        await event(manager, "runtime-image.repaired", image.id)
        new = await ready(manager)
        await manager.host.snapshots.verify(new.snapshot_path)
        container = await manager.run("found")
        assert container.boot_method is BootMethod.WARM
        assert await image_check(manager) is None


async def test_a_file_that_was_put_back_makes_the_image_whole_at_the_next_boot(
    place: Lab,
) -> None:
    async with place.manager(**QUIET) as manager:
        image = await manager.image()
        good = place.root / "good"
        shutil.copyfile(image.rootfs, good)
        flip(image.rootfs)
        assert code(await manager.run("lost", boot=BootPolicy.COLD)) == "image-damaged"
    async with place.manager(**QUIET) as manager:
        assert await damage_of(manager) is not None, "a restart does not forget it"
        image.rootfs.unlink()
        shutil.copyfile(good, image.rootfs)
        container = await manager.run("found", boot=BootPolicy.COLD)
        assert code(container) is None
        assert await damage_of(manager) is None


async def test_looking_at_a_good_image_again_takes_no_sums(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager(**QUIET) as manager:
        image = await manager.image()
        await manager.snapshot()
        monkeypatch.setattr(
            "warmboot.host.storage.image_files.sum_file", lambda _: pytest.fail("summed")
        )
        await manager.host.images.check(image)
        note_image(image.path, image.manifest)
        await manager.host.images.check(image)
        with pytest.raises(ImageDamaged, match="is missing"):
            image.kernel.unlink()
            await manager.host.images.check(image)


async def test_what_an_image_occupies_is_neither_holes_nor_missing_files(manager: Manager) -> None:
    image = await manager.image()
    files = [path for path in image.path.iterdir() if not path.name.startswith(".")]
    sizes = {path.name: path.stat().st_blocks * 512 for path in files}
    del sizes["manifest.json"]
    stored = await manager.services.images.stored_bytes(image)
    assert stored == sum(sizes.values()) < sum(f.size_bytes for f in image.manifest.files.values())
    aside = image.disk.rename(manager.lab.root / "aside")
    left = await manager.services.images.stored_bytes(image)
    assert left == stored - sizes["disk.ext4"]
    aside.rename(image.disk)

"""Image folders and bare files are stored whole or not at all; the user's stay as they were."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.image_folders import MIB, make_image

from warmboot.host.storage import image_files, stored_images
from warmboot.images import files
from warmboot.images.files import (
    DEFAULT_CMDLINE,
    describe,
    import_bare_files,
    import_runtime_image,
    load_manifest,
    stored_folder,
    verify_runtime_image,
    write_manifest,
)
from warmboot.images.filesystems import make_empty_disk
from warmboot.model.errors import DiskFull, HostError, ImageDamaged, InvalidRequest
from warmboot.model.runtime_image import UNKNOWN_AGENT, FileSum, RuntimeImage
from warmboot.system import staging
from warmboot.system.hashing import copy_sparse, sum_file


@pytest.fixture
async def image(tmp_path: Path) -> Path:
    return await make_image(tmp_path / "image")


def marks(path: Path) -> tuple[int, ...]:
    """All that is not a file's content; a link to it changes the last two."""
    status = path.stat()
    return (
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_nlink,
        status.st_ctime_ns,
    )


def residue(storage: Path) -> list[str]:
    folder = storage / "runtime-images"
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# --- importing


async def test_an_import_is_stored_under_its_digest_once(image: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    manifest = await import_runtime_image(image, storage)
    folder = stored_folder(storage, manifest.digest)
    assert folder.name == manifest.digest.removeprefix("sha256:")
    assert await verify_runtime_image(folder) == manifest
    inode = folder.stat().st_ino
    copy = tmp_path / "copy"
    shutil.copytree(image, copy)
    assert await import_runtime_image(copy, storage) == manifest
    assert folder.stat().st_ino == inode
    assert residue(storage) == []


async def test_other_files_get_another_digest(image: Path, tmp_path: Path) -> None:
    first = await import_runtime_image(image, tmp_path / "storage")
    (image / "initrd").unlink()
    (image / "initrd").write_bytes(b"070701" + b"1" * 100)
    write_manifest(image, await describe(image, DEFAULT_CMDLINE, "1", {}))
    second = await import_runtime_image(image, tmp_path / "storage")
    assert first.digest != second.digest
    assert len(list((tmp_path / "storage/runtime-images").iterdir())) == 2


async def test_a_damaged_source_is_not_stored(image: Path, tmp_path: Path) -> None:
    os.truncate(image / "rootfs.ext4", 5)
    with pytest.raises(ImageDamaged, match=r"rootfs\.ext4"):
        await import_runtime_image(image, tmp_path / "storage")
    assert not (tmp_path / "storage").exists()


async def test_a_damaged_stored_copy_is_replaced(image: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    manifest = await import_runtime_image(image, storage)
    folder = stored_folder(storage, manifest.digest)
    (folder / "kernel").unlink()
    (folder / "kernel").write_bytes(b"x")
    await import_runtime_image(image, storage)
    assert await verify_runtime_image(folder) == manifest
    assert residue(storage) == []


async def test_the_users_own_files_stay_as_they_were(image: Path, tmp_path: Path) -> None:
    """Neither mode, owner nor times; and what the user writes into them later stays theirs."""
    (image / "kernel").chmod(0o640)
    before = {path.name: marks(path) for path in image.iterdir()}
    manifest = await import_runtime_image(image, tmp_path / "storage")
    folder = stored_folder(tmp_path / "storage", manifest.digest)
    stored_images._let_vmms_read(folder, manifest)
    assert {path.name: marks(path) for path in image.iterdir()} == before
    with (image / "rootfs.ext4").open("r+b") as file:
        file.write(b"edited in place")
    assert await verify_runtime_image(folder) == manifest


async def test_a_note_that_comes_and_goes_beside_the_files_is_no_error(
    image: Path, tmp_path: Path
) -> None:
    manifest = await import_runtime_image(image, tmp_path / "storage")
    folder = stored_folder(tmp_path / "storage", manifest.digest)
    (folder / ".seen.json.new").symlink_to("gone")  # listed, and not there any more
    stored_images._let_vmms_read(folder, manifest)


async def test_files_that_an_earlier_version_shares_with_the_user_are_shared_no_more(
    image: Path, tmp_path: Path
) -> None:
    manifest = load_manifest(image)
    folder = stored_folder(tmp_path / "storage", manifest.digest)
    folder.mkdir(parents=True)
    for path in image.iterdir():
        (folder / path.name).hardlink_to(path)
    assert await import_runtime_image(image, tmp_path / "storage") == manifest
    assert not any((folder / path.name).samefile(path) for path in image.iterdir())


async def test_a_file_that_changes_while_it_is_copied_is_not_taken(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(source: Path, target: Path) -> None:
        copy_sparse(source, target)
        with target.open("r+b") as file:
            file.write(b"changed")

    monkeypatch.setattr(files, "copy_sparse", changed)
    with pytest.raises(ImageDamaged, match=str(image)):
        await import_runtime_image(image, tmp_path / "storage")
    assert list((tmp_path / "storage/runtime-images").iterdir()) == []


async def test_the_same_import_twice_at_once_is_fine(image: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    one, two = await asyncio.gather(
        import_runtime_image(image, storage), import_runtime_image(image, storage)
    )
    assert one == two == await verify_runtime_image(stored_folder(storage, one.digest))
    assert residue(storage) == []


async def test_of_two_placed_at_once_one_is_there(tmp_path: Path) -> None:
    """Many times over: the second one must come between the first one's two renames."""
    dest = tmp_path / "dest"

    async def one(content: str) -> None:
        async with staging.staging(dest) as folder:
            image = folder / "image"
            image.mkdir()
            (image / "file").write_text(content)
            await staging.place(image, dest)

    for _ in range(30):
        await asyncio.gather(*(one(content) for content in "abcd"))
        assert (dest / "file").read_text() in "abcd"
        assert list(tmp_path.iterdir()) == [dest]


async def test_a_full_disk_leaves_nothing(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "copy_sparse", full)
    with pytest.raises(DiskFull, match="not enough space"):
        await import_runtime_image(image, tmp_path / "storage")
    assert list((tmp_path / "storage/runtime-images").iterdir()) == []


async def test_what_a_killed_import_left_is_removed_but_not_what_runs(
    image: Path, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    dead = storage / "runtime-images/.dead.0000.partial"
    (dead / "image").mkdir(parents=True)
    async with staging.staging(storage / "runtime-images/running") as running:
        await import_runtime_image(image, storage)
        assert not dead.exists()
        assert running.exists()
    assert residue(storage) == []


async def test_cancelled_while_it_is_removed_a_folder_is_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmtree, removing, go_on = shutil.rmtree, asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slowly(folder: Path, ignore_errors: bool) -> None:
        loop.call_soon_threadsafe(removing.set)
        go_on.wait(30)
        rmtree(folder, ignore_errors)

    async def staged() -> None:
        async with staging.staging(tmp_path / "dest"):
            monkeypatch.setattr(shutil, "rmtree", slowly)

    staging_it = asyncio.create_task(staged())
    await removing.wait()
    staging_it.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await staging_it
    assert list(tmp_path.iterdir()) == []
    held = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    assert not [path for path in held if path.is_relative_to(tmp_path)], "its lock is let go"


async def test_a_cancelled_import_leaves_nothing(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def never(folder: Path, dest: Path) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(files, "place", never)
    task = asyncio.create_task(import_runtime_image(image, tmp_path / "storage"))
    await asyncio.wait_for(reached.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "storage/runtime-images").iterdir()) == []


async def test_a_place_that_cannot_be_written_is_an_error_in_words(image: Path) -> None:
    with pytest.raises(HostError, match="could not be written"):
        await import_runtime_image(image, Path("/proc/nowhere"))


async def test_an_empty_disk_is_not_summed_hole_by_hole_and_its_damage_is_found(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = await import_runtime_image(image, tmp_path / "storage")
    folder = stored_folder(tmp_path / "storage", manifest.digest)
    stored = RuntimeImage(uuid4(), "app", manifest.digest, folder, manifest, datetime.now(UTC))
    image_files.note_image(folder, manifest)
    summed: list[str] = []

    def summing(path: Path) -> FileSum:
        summed.append(path.name)
        return sum_file(path)

    monkeypatch.setattr(image_files, "sum_file", summing)
    image_files.check_image(stored, thorough=True)
    assert "kernel" in summed
    assert "disk.ext4" not in summed
    stored.disk.chmod(0o600)
    with stored.disk.open("r+b") as disk:
        disk.seek(1024 + 0x38)  # the file system's magic number: there is data
        disk.write(b"!")
    with pytest.raises(ImageDamaged, match=r"disk\.ext4"):
        image_files.check_image(stored, thorough=True)


# --- bare files


async def test_bare_files_become_an_image_with_a_disk(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A smaller one than it would be: to hash gigabytes of nothing takes its time.
    monkeypatch.setattr(files, "make_empty_disk", partial(make_empty_disk, size_bytes=64 * MIB))
    storage = tmp_path / "storage"
    manifest = await import_bare_files(image / "kernel", image / "rootfs.ext4", None, storage)
    folder = stored_folder(storage, manifest.digest)
    assert set(manifest.files) == {"kernel", "rootfs", "disk"}
    assert manifest.cmdline == DEFAULT_CMDLINE
    assert manifest.agent_version == UNKNOWN_AGENT, "there is none of ours in it"
    assert manifest.files["disk"].size_bytes == 64 * MIB
    assert (folder / "disk.ext4").stat().st_blocks * 512 < 16 * MIB
    assert not (folder / "rootfs.ext4").samefile(image / "rootfs.ext4")
    again = await import_bare_files(image / "kernel", image / "rootfs.ext4", None, storage)
    assert again.digest == manifest.digest
    assert residue(storage) == []


@pytest.mark.parametrize("which", ["kernel", "rootfs", "initrd"])
async def test_bare_files_of_another_kind_are_refused(
    image: Path, tmp_path: Path, which: str
) -> None:
    paths = {
        "kernel": image / "kernel",
        "rootfs": image / "rootfs.ext4",
        "initrd": image / "initrd",
    }
    paths[which] = tmp_path / "wrong"
    paths[which].write_bytes(b"#!/bin/sh\n" * 1000)
    with pytest.raises(InvalidRequest, match="wrong"):
        await import_bare_files(
            paths["kernel"], paths["rootfs"], paths["initrd"], tmp_path / "storage"
        )
    assert not (tmp_path / "storage").exists()


async def test_a_truncated_root_file_system_is_found(image: Path, tmp_path: Path) -> None:
    os.truncate(image / "rootfs.ext4", MIB)
    with pytest.raises(ImageDamaged, match="truncated"):
        await import_bare_files(image / "kernel", image / "rootfs.ext4", None, tmp_path / "storage")


async def test_a_missing_bare_file_is_named(image: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageDamaged, match="vmlinux-nowhere"):
        await import_bare_files(
            tmp_path / "vmlinux-nowhere", image / "rootfs.ext4", None, tmp_path / "storage"
        )

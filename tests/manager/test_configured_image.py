"""The runtime image that ``CONTAINER_RUNTIME_KERNEL`` and ``CONTAINER_RUNTIME_ROOTFS`` name."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
from tests.support.managers import Lab, Manager, image_folder

from warmboot.images.filesystems import make_empty_disk
from warmboot.manager.protocols import Check
from warmboot.model.errors import InvalidRequest
from warmboot.settings import Settings


@pytest.fixture
async def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Path]:
    """The settings, and the files that they name. The disk beside them is a small one."""
    small = partial(make_empty_disk, size_bytes=64 << 20)
    monkeypatch.setattr("warmboot.images.files.make_empty_disk", small)
    folder = await image_folder()
    kernel, rootfs = tmp_path / "vmlinux", tmp_path / "rootfs.ext4"
    shutil.copyfile(folder / "kernel", kernel)
    shutil.copyfile(folder / "rootfs.ext4", rootfs)
    return {"CONTAINER_RUNTIME_KERNEL": kernel, "CONTAINER_RUNTIME_ROOTFS": rootfs}


async def names(manager: Manager) -> dict[str, str]:
    """Digests by name."""
    return {image.name: image.digest for image in await manager.services.images.list()}


async def finding(manager: Manager) -> Check:
    (check,) = (c for c in await manager.services.system.doctor() if c.name == "given image")
    return check


async def told(manager: Manager, kind: str) -> int:
    return sum(e.kind == kind for e in await manager.services.events.list(limit=1000))


def change(kernel: Path) -> None:
    with kernel.open("ab") as file:
        file.write(b"a newer kernel")


async def test_files_that_are_as_they_were_are_not_read_again(
    place: Lab, files: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager(**files) as manager:
        before = await names(manager)
        assert list(before) == ["default"]
        assert (await finding(manager)).ok
    monkeypatch.setattr(
        "warmboot.host.storage.stored_images.import_bare_files", lambda *_: pytest.fail("read")
    )
    async with place.manager(**files) as manager:
        assert await names(manager) == before


async def test_changed_files_are_the_default_from_the_next_start_on_and_the_old_image_stays(
    place: Lab, files: Mapping[str, Path]
) -> None:
    async with place.manager(**files) as manager:
        old = await manager.image()
        await manager.run("old")
    change(files["CONTAINER_RUNTIME_KERNEL"])
    async with place.manager(**files) as manager:
        found = await names(manager)
        aside = f"default-{old.digest.removeprefix('sha256:')[:8]}"
        assert found[aside] == old.digest
        assert found["default"] != old.digest
        assert await told(manager, "runtime-image.renamed") == 1
        new = await manager.run("new")
        now = await manager.store.images.by_name("default")
        assert now is not None
        assert new.runtime_image_id == now.id
        assert (await manager.containers.get("old")).runtime_image_id == old.id
    async with place.manager(**files) as manager:
        assert await names(manager) == found
        for name in ("old", "new"):
            await manager.containers.delete(name, force=True)


async def test_files_that_are_changed_back_are_the_image_that_they_were(
    place: Lab, files: Mapping[str, Path]
) -> None:
    kernel: Path = files["CONTAINER_RUNTIME_KERNEL"]
    content = kernel.read_bytes()
    async with place.manager(**files) as manager:
        old = await manager.image()
    change(kernel)
    async with place.manager(**files) as manager:
        newer = (await names(manager))["default"]
    kernel.write_bytes(content)
    async with place.manager(**files) as manager:
        default = await manager.store.images.by_name("default")
        assert default is not None
        assert (default.id, default.digest) == (old.id, old.digest)
        aside = f"default-{newer.removeprefix('sha256:')[:8]}"
        assert await names(manager) == {"default": old.digest, aside: newer}


@pytest.mark.parametrize("fault", ["missing", "foreign"])
async def test_files_that_cannot_be_had_are_told_and_the_manager_serves_what_it_has(
    place: Lab, files: Mapping[str, Path], fault: str
) -> None:
    kernel: Path = files["CONTAINER_RUNTIME_KERNEL"]
    async with place.manager(**files) as manager:
        before = await names(manager)
    if fault == "missing":
        kernel.unlink()
    else:
        kernel.write_bytes(b"#!/bin/sh\n" * 1000)
    async with place.manager(**files) as manager:
        assert await names(manager) == before
        found = await finding(manager)
        assert not found.ok
        assert str(kernel) in found.summary
        assert await told(manager, "runtime-image.refused") == 1
        container = await manager.run()
        assert container.error is None
        await manager.containers.delete("web", force=True)


async def test_files_that_never_were_there_leave_no_image_and_an_error_that_says_so(
    place: Lab, tmp_path: Path
) -> None:
    nowhere = {f"CONTAINER_RUNTIME_{n}": tmp_path / n for n in ("KERNEL", "ROOTFS")}
    async with place.manager(**nowhere) as manager:
        assert "CONTAINER_RUNTIME_KERNEL names" in (await finding(manager)).summary
        assert await names(manager) == {}


@pytest.mark.parametrize("name", ["KERNEL", "ROOTFS", "INITRD"])
def test_one_of_the_files_alone_is_no_setting(name: str) -> None:
    with pytest.raises(InvalidRequest, match="go together"):
        Settings.model_validate({f"CONTAINER_RUNTIME_{name}": Path("/nowhere")})


def test_a_setting_alone_is_an_error_in_words() -> None:
    from warmboot.cli.commands.host import _settings

    with pytest.raises(InvalidRequest, match="go together") as caught:
        _settings({"CONTAINER_RUNTIME_KERNEL": Path("/nowhere")})
    assert "set the missing" in caught.value.resolution

"""The guest agent in a real, small ext4 file system is exchanged, and nothing else changes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from tests.support.managers import agent_package, image_folder, make_ext4

from warmboot.guest import AGENT_VERSION
from warmboot.images import files, renew
from warmboot.images.ext4 import replace_folder
from warmboot.images.files import (
    describe,
    import_bare_files,
    load_manifest,
    stored_folder,
    verify_runtime_image,
    write_manifest,
)
from warmboot.images.filesystems import make_empty_disk
from warmboot.images.guest_agent import FOLDER, SHIPPED, agent_version_in, agent_version_of
from warmboot.images.renew import renew_agent
from warmboot.model.errors import DiskFull, HostError, ImageDamaged, NotSupported
from warmboot.model.runtime_image import GUEST_PROTOCOLS, RENEWED_FROM
from warmboot.system.programs import Outcome, run_program

OLD = "0"
OTHERS = {"etc/motd": b"hello\n", "usr/lib/warmboot/init": b"#!/bin/sh\n", "big": bytes(70_000)}


@pytest.fixture
async def old(tmp_path: Path) -> Path:
    """An image with an agent that is not understood, as ``warmboot runtime build`` lays it out."""
    tree, folder = tmp_path / "tree", tmp_path / "old"
    guest = agent_package(tree / FOLDER[1:], OLD)
    (guest / "__pycache__").mkdir()
    (guest / "__pycache__/agent.cpython-313.pyc").write_bytes(b"unchecked")
    (guest / "given_up.py").write_text("")
    for name, content in OTHERS.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    shutil.copytree(await image_folder(), folder)
    (folder / "rootfs.ext4").unlink()
    await make_ext4(folder / "rootfs.ext4", tree, 4 << 20)
    labels = {"recipe": "the old one", "debian": "trixie"}
    write_manifest(folder, await describe(folder, "quiet", OLD, labels))
    return folder


async def content(rootfs: Path, to: Path) -> dict[str, bytes]:
    to.mkdir()
    await run_program("debugfs", "-R", "rdump / .", rootfs, cwd=to)
    files = (path for path in to.rglob("*") if path.is_file())
    return {str(path.relative_to(to)): path.read_bytes() for path in files}


def residue(storage: Path) -> list[str]:
    return [path.name for path in storage.glob("runtime-images/.*")]


def test_the_shipped_agent_is_understood() -> None:
    assert AGENT_VERSION in GUEST_PROTOCOLS
    assert agent_version_of(SHIPPED) == AGENT_VERSION


async def test_the_agent_is_exchanged_and_nothing_else(old: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    manifest = await renew_agent(old, tmp_path / "storage")
    folder = stored_folder(tmp_path / "storage", manifest.digest)
    assert await verify_runtime_image(folder) == manifest
    assert await agent_version_in(folder / "rootfs.ext4") == AGENT_VERSION
    agent = {f"{FOLDER[1:]}/{path.name}": path.read_bytes() for path in SHIPPED.glob("*.py")}
    assert await content(folder / "rootfs.ext4", tmp_path / "seen") == {**OTHERS, **agent}
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    await run_program("e2fsck", "-f", "-n", folder / "rootfs.ext4")
    assert residue(tmp_path / "storage") == []


async def test_the_files_of_the_agent_are_roots_and_readable(old: Path, tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    shutil.copytree(SHIPPED, agent)
    for path in agent.glob("*.py"):
        path.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(path, 1234, 1234)
    manifest = await renew_agent(old, tmp_path, agent)
    rootfs = stored_folder(tmp_path, manifest.digest) / "rootfs.ext4"
    listing = await run_program("debugfs", "-R", f"ls -p {FOLDER}", rootfs)
    entries = [line.split("/") for line in listing.output.splitlines() if "py" in line]
    assert {(mode, uid, gid) for _, _, mode, uid, gid, *_ in entries} == {("100644", "0", "0")}


async def test_the_manifest_tells_what_it_is_now(old: Path, tmp_path: Path) -> None:
    was = load_manifest(old)
    now = await renew_agent(old, tmp_path)
    assert (now.agent_version, now.cmdline) == (AGENT_VERSION, was.cmdline)
    assert now.digest != was.digest
    assert {k for k in now.files if now.files[k] != was.files[k]} == {"rootfs"}
    assert now.labels == {"debian": "trixie", RENEWED_FROM: was.digest}
    folder = stored_folder(tmp_path, now.digest)
    assert (folder / "disk.ext4").samefile(old / "disk.ext4")
    # And once more, by a later version: it is still known what it was registered with.
    again = await renew_agent(folder, tmp_path, agent_package(tmp_path / "newer", "99"))
    assert (again.agent_version, again.labels[RENEWED_FROM]) == ("99", was.digest)


async def test_the_same_image_and_agent_make_the_same_image(old: Path, tmp_path: Path) -> None:
    first = await renew_agent(old, tmp_path / "one")
    assert await renew_agent(old, tmp_path / "other") == first
    inode = stored_folder(tmp_path / "one", first.digest).stat().st_ino
    assert await renew_agent(old, tmp_path / "one") == first
    assert stored_folder(tmp_path / "one", first.digest).stat().st_ino == inode


@pytest.mark.parametrize("features", ["has_journal,metadata_csum", "^has_journal,^metadata_csum"])
async def test_file_systems_of_other_makers_are_changed_too(
    old: Path, tmp_path: Path, features: str
) -> None:
    rootfs, tree = old / "rootfs.ext4", tmp_path / "tree"
    rootfs.unlink()
    with rootfs.open("wb") as file:
        file.truncate(32 << 20)
    await run_program(
        "mke2fs", "-q", "-t", "ext4", "-b", "1024", "-O", features, "-d", tree, rootfs
    )
    write_manifest(old, await describe(old, "quiet", OLD, {}))
    manifest = await renew_agent(old, tmp_path)
    found = stored_folder(tmp_path, manifest.digest) / "rootfs.ext4"
    assert await agent_version_in(found) == AGENT_VERSION


# -- what cannot be renewed ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kernel", "disk.ext4", "rootfs.ext4"])
async def test_a_damaged_file_does_not_go_along(old: Path, tmp_path: Path, name: str) -> None:
    with (old / name).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    with pytest.raises(ImageDamaged, match=name):
        await renew_agent(old, tmp_path / "storage")
    assert list((tmp_path / "storage/runtime-images").iterdir()) == []


async def test_an_image_without_our_agent_is_told_apart(old: Path, tmp_path: Path) -> None:
    (old / "rootfs.ext4").unlink()
    await make_ext4(old / "rootfs.ext4")
    write_manifest(old, await describe(old, "quiet", OLD, {}))
    with pytest.raises(NotSupported, match="no warmboot guest agent") as caught:
        await renew_agent(old, tmp_path / "storage")
    assert "`warmboot runtime build`" in caught.value.resolution
    assert list((tmp_path / "storage/runtime-images").iterdir()) == []


async def test_a_file_system_that_is_full_cannot_be_changed(old: Path, tmp_path: Path) -> None:
    filler = tmp_path / "filler"
    filler.write_bytes(os.urandom(4 << 20))
    await run_program("debugfs", "-w", "-R", f"write {filler} filler", old / "rootfs.ext4")
    write_manifest(old, await describe(old, "quiet", OLD, {}))
    with pytest.raises(HostError, match="cannot be changed") as caught:
        await renew_agent(old, tmp_path / "storage", _much(tmp_path / "much"))
    assert "`warmboot runtime build`" in caught.value.resolution
    assert list((tmp_path / "storage/runtime-images").iterdir()) == []


def _much(folder: Path) -> Path:
    """An agent that takes more room than the one that it replaces."""
    agent_package(folder, "99")
    (folder / "more.py").write_bytes(b"#" * (1 << 20))
    return folder


async def test_a_file_system_that_is_not_clean_is_not_used(old: Path, tmp_path: Path) -> None:
    await run_program(
        "debugfs", "-w", "-R", "set_super_value free_blocks_count 7", old / "rootfs.ext4"
    )
    await run_program(
        "debugfs", "-w", "-R", "set_inode_field <2> links_count 9", old / "rootfs.ext4"
    )
    write_manifest(old, await describe(old, "quiet", OLD, {}))
    with pytest.raises(HostError, match="cannot be changed") as caught:
        await renew_agent(old, tmp_path / "storage")
    assert "e2fsck" in caught.value.details
    assert list((tmp_path / "storage/runtime-images").iterdir()) == []


async def test_damage_does_not_get_a_sum_of_its_own(old: Path, tmp_path: Path) -> None:
    with (old / "rootfs.ext4").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    with pytest.raises(ImageDamaged, match=r"rootfs\.ext4 is damaged"):
        await renew_agent(old, tmp_path / "storage")
    assert list((tmp_path / "storage/runtime-images").iterdir()) == []


async def test_without_debugfs_it_says_what_to_install(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmboot.system.programs._SBIN", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSupported, match="debugfs") as caught:
        await renew_agent(old, tmp_path / "storage")
    assert "apt-get install e2fsprogs" in caught.value.resolution


async def test_a_full_disk_leaves_nothing(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(renew, "copy_sparse", full)
    with pytest.raises(DiskFull, match="not enough space"):
        await renew_agent(old, tmp_path / "storage")
    assert list((tmp_path / "storage/runtime-images").iterdir()) == []


async def test_a_disk_that_fills_up_below_debugfs_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def says(name: str, *arguments: object, **options: object) -> Outcome:
        return Outcome(0, b"write: No space left on device while writing block 7")

    monkeypatch.setattr("warmboot.images.ext4.run_program", says)
    with pytest.raises(OSError, match="No space left") as caught:
        await replace_folder(tmp_path / "rootfs.ext4", FOLDER, [], tmp_path)
    assert caught.value.errno == errno.ENOSPC


# -- what an image of given files has --------------------------------------------------------------


async def test_the_agent_in_given_files_is_known(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "make_empty_disk", partial(make_empty_disk, size_bytes=64 << 20))
    manifest = await import_bare_files(old / "kernel", old / "rootfs.ext4", None, tmp_path)
    assert manifest.agent_version == OLD
    stored = json.loads((stored_folder(tmp_path, manifest.digest) / "manifest.json").read_text())
    assert stored["agent_version"] == OLD

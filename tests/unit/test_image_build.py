"""The parts that an image is put together from, without building one."""

from __future__ import annotations

import io
import json
import lzma
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from warmboot.images import __main__ as images_program
from warmboot.images.build import build_runtime_image
from warmboot.images.filesystems import make_empty_disk, make_root_file_system
from warmboot.images.kernel import (
    BOOT_MODULES,
    FOLDER_MODULES,
    INITRD_MODULES,
    Cpio,
    build_initrd,
    closure,
    extract_vmlinux,
    prune_modules,
    read_dependencies,
)
from warmboot.images.magic import check_ext4, check_initrd
from warmboot.images.warm_up_image import WARM_UP_TAG, build_warm_up_image
from warmboot.model.errors import HostError, NotSupported
from warmboot.system.programs import run_program

ELF = b"\x7fELF\x02" + b"the kernel proper" * 100


def bzimage(payload: bytes, sectors: int = 4) -> bytes:
    image = bytearray((sectors + 1) * 512 + 64)
    image[0x1F1] = sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 64, len(payload))
    return bytes(image) + payload + b"what follows the payload"


@pytest.mark.parametrize(
    "payload", [zstandard.compress(ELF) + b"\x12\x34\x00\x00", lzma.compress(ELF) + b"size"]
)
def test_the_kernel_is_found_inside_its_loader(payload: bytes) -> None:
    assert extract_vmlinux(bzimage(payload)) == ELF


def test_a_kernel_that_is_an_elf_file_stays_one() -> None:
    assert extract_vmlinux(ELF) == ELF


@pytest.mark.parametrize(
    "data",
    [b"\0" * 2000, bzimage(b"\x1f\x8bunknown"), bzimage(zstandard.compress(b"no ELF file"))],
)
def test_what_is_no_kernel_is_refused(data: bytes) -> None:
    with pytest.raises(HostError):
        extract_vmlinux(data)


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A release's module folder with the modules we load, one dependency, one nobody needs."""
    folder = tmp_path / "6.0"
    lines = []
    names = (*INITRD_MODULES, *BOOT_MODULES, *FOLDER_MODULES, "failover", "gpu", "cifs")
    for name in names:
        place = {"gpu": "drivers/gpu", "nfsv3": "fs/nfs", "cifs": "fs/smb"}.get(name, "net")
        path = folder / "kernel" / place / f"{name}.ko.xz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(f"code of {name}".encode()))
        needs = "kernel/net/failover.ko.xz" if name == "virtio_net" else ""
        lines.append(f"kernel/{place}/{name}.ko.xz: {needs}\n")
    (folder / "modules.dep").write_text("".join(lines))
    return folder


def test_modules_load_after_what_they_need(modules: Path) -> None:
    order = closure(read_dependencies(modules / "modules.dep"), ["virtio_net", "overlay"])
    assert [Path(name).name for name in order] == [
        "failover.ko.xz",
        "virtio_net.ko.xz",
        "overlay.ko.xz",
    ]


def test_a_module_that_the_kernel_lacks_is_named(modules: Path) -> None:
    with pytest.raises(HostError, match="warp_drive"):
        closure(read_dependencies(modules / "modules.dep"), ["warp_drive"])


def test_pruning_unpacks_what_is_loaded_and_drops_what_is_useless(modules: Path) -> None:
    prune_modules(modules)
    assert (modules / "kernel/net/bridge.ko").read_bytes() == b"code of bridge"
    assert (modules / "kernel/net/failover.ko").exists()
    assert not list(modules.rglob("bridge.ko.xz"))
    assert not list(modules.rglob("gpu*")) + list(modules.rglob("cifs*"))
    assert list(modules.rglob("nfs*.ko*")) == [modules / "kernel/fs/nfs/nfsv3.ko.xz"]


def test_the_initrd_holds_what_it_takes(modules: Path, tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(b"static busybox")
    data = build_initrd(modules, tmp_path / "busybox", b"#!init")
    (tmp_path / "initrd").write_bytes(data)
    check_initrd(tmp_path / "initrd")
    entries = read_cpio(data)
    assert entries["init"] == (0o100755, b"#!init")
    assert entries["bin/busybox"] == (0o100755, b"static busybox")
    assert entries["modules/virtio_net.ko"][1] == b"code of virtio_net"
    order = entries["modules/order"][1].decode().split()
    assert order.index("failover.ko") < order.index("virtio_net.ko")
    assert build_initrd(modules, tmp_path / "busybox", b"#!init") == data


def read_cpio(data: bytes) -> dict[str, tuple[int, bytes]]:
    entries: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return entries
        entries[name] = (mode, data[start : start + size])
        at = (start + size + 3) // 4 * 4


def test_an_archive_keeps_device_nodes() -> None:
    archive = Cpio()
    archive.add("dev/console", 0o020600, device=(5, 1))
    fields = archive.finish()[6:110]
    assert (int(fields[72:80], 16), int(fields[80:88], 16)) == (5, 1)


def document(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    assert file is not None
    return json.load(file)


def test_the_probe_is_an_image_that_docker_can_load(tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(b"static busybox")
    data = build_warm_up_image(tmp_path / "busybox")
    assert build_warm_up_image(tmp_path / "busybox") == data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (entry,) = document(archive, "manifest.json")
        assert entry["RepoTags"] == [WARM_UP_TAG]
        config = document(archive, entry["Config"])
        assert config["rootfs"]["type"] == "layers"
        layer = archive.extractfile(entry["Layers"][0])
        with tarfile.open(fileobj=layer) as content:
            assert content.getmember("bin/busybox").mode == 0o755
            assert content.getmember("bin/sh").linkname == "busybox"


async def test_a_root_file_system_holds_the_tree(tmp_path: Path) -> None:
    tree, target = tmp_path / "tree", tmp_path / "rootfs.ext4"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("warmboot\n")
    await make_root_file_system(tree, target)
    check_ext4(target)
    assert (
        "\nwarmboot"
        in "\n" + (await run_program("debugfs", "-R", "cat /etc/hostname", target)).output
    )
    assert "has_journal" not in (await run_program("dumpe2fs", "-h", target)).output


async def test_the_empty_disk_occupies_next_to_nothing(tmp_path: Path) -> None:
    await make_empty_disk(tmp_path / "disk.ext4")
    check_ext4(tmp_path / "disk.ext4")
    assert (tmp_path / "disk.ext4").stat().st_size == 8 << 30
    assert (tmp_path / "disk.ext4").stat().st_blocks * 512 < 16 << 20


async def test_a_missing_program_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmboot.system.programs._SBIN", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSupported, match="mmdebstrap") as caught:
        await build_runtime_image(tmp_path / "image", lambda what, part: None)
    assert "apt-get install mmdebstrap" in caught.value.resolution
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_fails_is_told_as_any_error_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refused(_: Path, progress: object) -> None:
        raise HostError("it needs root", details="it keeps owners", resolution="use sudo")

    monkeypatch.setattr(images_program, "build_runtime_image", refused)
    assert images_program.main(["build", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "error: it needs root\n  why: it keeps owners\n next: use sudo\n"
    )

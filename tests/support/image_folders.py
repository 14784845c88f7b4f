"""Image folders as they are on disk, small and complete."""

from __future__ import annotations

import subprocess
from pathlib import Path

from warmboot.images.build import recipe
from warmboot.images.files import (
    DEFAULT_CMDLINE,
    describe,
    write_manifest,
)
from warmboot.system.programs import find_program

MIB = 1 << 20


def make_ext4(path: Path, size_bytes: int = 4 * MIB) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run([find_program("mke2fs"), "-q", "-F", "-t", "ext4", path], check=True, timeout=60)


def make_elf(path: Path) -> None:
    header = bytearray(1024)
    header[:5] = b"\x7fELF\x02"
    header[18:20] = b"\x3e\x00"
    path.write_bytes(header)


async def make_image(folder: Path) -> Path:
    """A small, complete image folder."""
    folder.mkdir()
    make_elf(folder / "kernel")
    (folder / "initrd").write_bytes(b"070701" + b"0" * 100)
    make_ext4(folder / "rootfs.ext4")
    make_ext4(folder / "disk.ext4", 64 * MIB)
    write_manifest(folder, await describe(folder, DEFAULT_CMDLINE, "1", {"recipe": recipe()}))
    return folder

"""ext4 file systems, made with ``mke2fs``: no mount and no loop device needed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from warmboot.system.programs import run_program

DISK_SIZE_BYTES = 8 << 30
_BLOCK = 4096
_DISK_UUID = "5b0f3c1e-7a57-4d0b-9c2e-77626f6f7464"


async def make_root_file_system(tree: Path, target: Path) -> None:
    """A file system that is only ever mounted read-only: no journal, no reserve, little slack."""
    used_bytes, files = await asyncio.to_thread(_measure, tree)
    size_bytes = int(used_bytes * 1.04) + files * 64 + (16 << 20)
    await _create(target, size_bytes // _BLOCK * _BLOCK)
    await run_program(
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-m", "0", "-L", "warmboot-root",
        "-N", str(files + 256), "-O", "^has_journal,^resize_inode,^metadata_csum",
        "-E", "lazy_itable_init=0,nodiscard", "-d", tree, target,
    )  # fmt: skip


async def make_empty_disk(target: Path, size_bytes: int = DISK_SIZE_BYTES) -> None:
    """The writable disk: sparse, and with so few blocks in use that a clone's copy is quick.

    The file is known to be zeros, so neither mke2fs nor later the guest writes out inode tables.
    The same bytes every time, so that the same kernel and root make the same image.
    """
    await _create(target, size_bytes)
    await run_program(
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-m", "0", "-L", "warmboot-disk",
        "-J", "size=16", "-U", _DISK_UUID,
        "-E", f"assume_storage_prezeroed=1,nodiscard,hash_seed={_DISK_UUID}", target,
        environment={"E2FSPROGS_FAKE_TIME": "1600000000"},
    )  # fmt: skip


async def _create(target: Path, size_bytes: int) -> None:
    def create() -> None:
        with target.open("wb") as file:
            file.truncate(size_bytes)

    await asyncio.to_thread(create)


def _measure(tree: Path) -> tuple[int, int]:
    """Bytes, in whole blocks, and number of entries of a tree."""
    total, entries = 0, 0
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            size = (Path(folder) / name).lstat().st_size
            total += -(-size // _BLOCK) * _BLOCK
            entries += 1
    return total, entries

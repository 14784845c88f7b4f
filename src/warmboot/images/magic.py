"""Recognizes kernels, initrds and ext4 file systems by their magic numbers."""

from __future__ import annotations

import struct
from pathlib import Path

from warmboot.model.errors import ImageDamaged, InvalidRequest

_ELF = b"\x7fELF"
_INITRDS = {
    b"070701": "cpio",
    b"070702": "cpio",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x02\x21\x4c\x18": "lz4",
    b"BZh": "bzip2",
    b"\x5d\x00\x00": "lzma",
}
_EXT4_MAGIC = 0xEF53
_EXTENTS = 0x40


def check_kernel(path: Path) -> None:
    """An ELF file or a bzImage, both for x86-64; else ``InvalidRequest``."""
    head = _head(path, 0x206, "kernel")
    if head[:4] == _ELF:
        if head[4] != 2 or head[18:20] != b"\x3e\x00":
            raise InvalidRequest(
                f"{path} is an ELF file, but not for x86-64",
                resolution="give a vmlinux that was built for x86-64",
            )
        return
    if head[0x202:0x206] != b"HdrS":
        raise InvalidRequest(
            f"{path} is not a Linux kernel",
            details=f"it is neither an ELF file nor a bzImage; it begins with {head[:4].hex()}",
            resolution="give an uncompressed vmlinux, or a vmlinuz",
        )


def check_initrd(path: Path) -> None:
    head = _head(path, 6, "initrd")
    if not any(head.startswith(magic) for magic in _INITRDS):
        raise InvalidRequest(
            f"{path} is not an initrd",
            details=f"it is not a cpio archive, compressed or not; it begins with {head.hex()}",
        )


def check_ext4(path: Path) -> None:
    """An ext4 file system that is all there: else ``InvalidRequest`` or ``ImageDamaged``."""
    head = _head(path, 0x800, "root file system")
    (magic,) = struct.unpack_from("<H", head, 0x438)
    (incompatible,) = struct.unpack_from("<I", head, 0x460)
    if magic != _EXT4_MAGIC or not incompatible & _EXTENTS:
        raise InvalidRequest(
            f"{path} is not an ext4 file system",
            details="its superblock has another magic number, or lacks ext4's extents",
            resolution="make one with: mke2fs -t ext4 -d <folder> <file>",
        )
    (blocks,) = struct.unpack_from("<I", head, 0x404)
    (shift,) = struct.unpack_from("<I", head, 0x418)
    expected, size = blocks << (10 + shift), path.stat().st_size
    if size < expected:
        raise ImageDamaged(
            f"{path} is truncated",
            details=f"the file has {size} bytes, the file system in it {expected}",
            resolution="copy or build it again",
        )


def _head(path: Path, count: int, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(count)
    except OSError as error:
        raise ImageDamaged(f"the {what} {path} cannot be read", details=str(error)) from error
    if len(head) < count:
        raise ImageDamaged(f"the {what} {path} is truncated", details=f"{len(head)} bytes long")
    return head

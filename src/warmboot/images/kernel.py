"""Kernel and initrd of a runtime image.

Debian ships a bzImage: a small loader with the real kernel, an ELF file, compressed inside.
Firecracker wants the ELF file, and under emulation it also saves the time of unpacking. Modules
come compressed and are unpacked here for the same reason.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from warmboot.model.errors import HostError

ELF_MAGIC = b"\x7fELF"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

INITRD_MODULES = ("virtio_mmio", "virtio_blk", "virtio_net", "overlay")
BOOT_MODULES = (
    "bridge",
    "br_netfilter",
    "veth",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "ip_tables",
    "iptable_filter",
    "iptable_mangle",
    "iptable_nat",
    "tcp_diag",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_conntrack",
    "xt_mark",
    "xt_nat",
    "xt_tcpudp",
)
# What the folders of the host come through; only a VM that has some loads it.
FOLDER_MODULES = ("nfsv3",)
# Folders below kernel/ that a VM with virtio devices and containers can have a use for.
_KEPT_FOLDERS = (
    "arch",
    "crypto",
    "drivers/block/loop",
    "drivers/block/virtio_blk",
    "drivers/block/zram",
    "drivers/char/hw_random",
    "drivers/net/dummy",
    "drivers/net/ifb",
    "drivers/net/ipvlan",
    "drivers/net/macvlan",
    "drivers/net/net_failover",
    "drivers/net/tap",
    "drivers/net/tun",
    "drivers/net/veth",
    "drivers/net/virtio_net",
    "drivers/net/vxlan",
    "drivers/net/wireguard",
    "drivers/virtio",
    "fs/binfmt_misc",
    "fs/fuse",
    "fs/nls",
    "fs/overlayfs",
    "lib",
    "net",
)


def extract_vmlinux(bzimage: bytes) -> bytes:
    """The ELF kernel inside a bzImage (x86 boot protocol 2.08 and later, zstd or xz)."""
    if bzimage[:4] == ELF_MAGIC:
        return bzimage
    if bzimage[0x202:0x206] != b"HdrS":
        raise HostError("this is not a Linux bzImage", details="the header's magic is missing")
    sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if payload[:4] == ZSTD_MAGIC:
        vmlinux = zstandard.ZstdDecompressor().decompressobj().decompress(payload)
    elif payload[:6] == b"\xfd7zXZ\x00":
        vmlinux = lzma.LZMADecompressor().decompress(payload)
    else:
        raise HostError(
            "the kernel is compressed in a way that is not known here",
            details=f"the payload begins with {payload[:6].hex()}",
        )
    if vmlinux[:4] != ELF_MAGIC:
        raise HostError("the unpacked kernel is not an ELF file", details=vmlinux[:4].hex())
    return vmlinux


def adopt_modules(kernel_tree: Path, root: Path) -> str:
    """Move the kernel package's modules into ``root``; returns the kernel's release.

    ``depmod`` has to run next: the package leaves that to its installation.
    """
    for modules in (kernel_tree / "usr/lib/modules", kernel_tree / "lib/modules"):
        if modules.is_dir():
            release = min(modules.iterdir()).name
            target = root / "usr/lib/modules"
            target.mkdir(exist_ok=True)
            (modules / release).rename(target / release)
            return release
    raise HostError("the kernel package has no modules")


def prune_modules(modules: Path) -> None:
    """Remove what no VM of ours can use, and unpack what every boot loads.

    ``modules`` is the folder of the release. ``depmod`` has to run again afterwards.
    """
    dependencies = read_dependencies(modules / "modules.dep")
    loaded = {modules / name for name in closure(dependencies, INITRD_MODULES + BOOT_MODULES)}
    needed = [str(modules / name) for name in closure(dependencies, FOLDER_MODULES)]
    kept = (*(f"{modules}/kernel/{name}" for name in _KEPT_FOLDERS), *needed)
    for path in list((modules / "kernel").rglob("*.ko*")):
        if path in loaded:
            path.with_name(plain_name(path)).write_bytes(read_module(path))
        if path.name != plain_name(path) and (path in loaded or not str(path).startswith(kept)):
            path.unlink()
    for folder in sorted((modules / "kernel").rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def read_dependencies(modules_dep: Path) -> dict[str, list[str]]:
    """``modules.dep``: file name of each module → those it needs, nearest first."""
    lines = (line.partition(":") for line in modules_dep.read_text().splitlines())
    return {name: needs.split() for name, _, needs in lines}


def closure(dependencies: dict[str, list[str]], names: Iterable[str]) -> list[str]:
    """The files of the named modules with all they need, in the order in which they load."""
    by_name = {plain_name(Path(path))[:-3].replace("-", "_"): path for path in dependencies}
    ordered: dict[str, None] = {}
    for name in names:
        path = by_name.get(name)
        if path is None:
            raise HostError(f"the kernel has no module {name}")
        for needed in (*reversed(dependencies[path]), path):
            ordered.setdefault(needed)
    return list(ordered)


def plain_name(path: Path) -> str:
    """``overlay.ko.xz`` → ``overlay.ko``."""
    return path.name.partition(".")[0] + ".ko"


def read_module(path: Path) -> bytes:
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".zst":
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)
        case _:
            return data


@dataclass(slots=True)
class Cpio:
    """An initrd in the kernel's "newc" format, uncompressed: unpacking costs more than it saves.

    Inode numbers and times are fixed, so the same content gives the same bytes.
    """

    _parts: list[bytes] = field(default_factory=list)
    _inode: int = 0

    def add(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        """One entry; ``mode`` with the file type, ``device`` of a device node."""
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % value for value in fields)
        self._parts += [_pad(header + encoded), _pad(data)]

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def _pad(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def build_initrd(modules: Path, busybox: Path, init: bytes) -> bytes:
    """An archive of busybox, ``init`` and the modules for the disks.

    ``modules`` is the folder of the release, with its ``modules.dep``.
    """
    files = closure(read_dependencies(modules / "modules.dep"), INITRD_MODULES)
    archive = Cpio()
    for folder in ("bin", "dev", "modules", "proc", "root", "sys"):
        archive.add(folder, 0o040755)
    archive.add("dev/console", 0o020600, device=(5, 1))
    archive.add("bin/busybox", 0o100755, busybox.read_bytes())
    archive.add("init", 0o100755, init)
    for name in files:
        archive.add(f"modules/{plain_name(Path(name))}", 0o100644, read_module(modules / name))
    order = "".join(f"{plain_name(Path(name))}\n" for name in files)
    archive.add("modules/order", 0o100644, order.encode())
    return archive.finish()

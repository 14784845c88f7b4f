"""The files of a runtime image: their manifest, their checks and their import.

Images live content-addressed below the storage root::

    <storage>/runtime-images/<hex of the digest>/{kernel,initrd,rootfs.ext4,disk.ext4,manifest.json}

so the same files are stored once, whoever registers them. A folder appears there complete or not
at all: it is put together beside its place, synced, and renamed (``staging`` and ``place``).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from warmboot.codec import CodecError, decode
from warmboot.images.filesystems import make_empty_disk
from warmboot.images.guest_agent import agent_version_in
from warmboot.images.magic import check_ext4, check_initrd, check_kernel
from warmboot.model.errors import ImageDamaged
from warmboot.model.runtime_image import UNKNOWN_AGENT, FileSum, RuntimeImageManifest
from warmboot.system.hashing import copy_sparse, sum_file
from warmboot.system.staging import place, staging

MANIFEST_FILE = "manifest.json"
FILE_NAMES: Mapping[str, str] = {
    "kernel": "kernel",
    "initrd": "initrd",
    "rootfs": "rootfs.ext4",
    "disk": "disk.ext4",
}
"""Key in the manifest's ``files`` → name in the folder."""
_REQUIRED = frozenset({"kernel", "rootfs", "disk"})

DEFAULT_CMDLINE = (
    "root=/dev/vda ro quiet init=/usr/lib/warmboot/init panic=1 reboot=k "
    "ipv6.disable_ipv6=1 apparmor=0 audit=0 transparent_hugepage=madvise "
    "random.trust_cpu=on cryptomgr.notests no_timer_check no5lvl "
    "i8042.noaux i8042.nomux i8042.dumbkbd"
)
"""Drivers append ``console=``: which console there is, is theirs to know."""

_REBUILD = "build the image again (`warmboot runtime build --force`), or give a good copy"


def image_digest(files: Mapping[str, FileSum]) -> str:
    """``sha256:`` of the sorted file sums, one line ``<key> <sha256> <bytes>`` a file."""
    lines = (f"{key} {sums.sha256} {sums.size_bytes}\n" for key, sums in sorted(files.items()))
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


async def describe(
    folder: Path, cmdline: str, agent_version: str, labels: Mapping[str, str]
) -> RuntimeImageManifest:
    """The manifest of the files that are in ``folder``. Reads all of them, in threads."""
    present = {key: folder / name for key, name in FILE_NAMES.items() if (folder / name).exists()}
    sums = await asyncio.gather(*(asyncio.to_thread(sum_file, path) for path in present.values()))
    files = dict(zip(present, sums, strict=True))
    return RuntimeImageManifest(image_digest(files), files, cmdline, agent_version, dict(labels))


def write_manifest(folder: Path, manifest: RuntimeImageManifest) -> None:
    (folder / MANIFEST_FILE).write_text(json.dumps(asdict(manifest), indent=2) + "\n")


def load_manifest(folder: Path) -> RuntimeImageManifest:
    """Read ``manifest.json``; ``ImageDamaged`` when it is missing or makes no sense.

    Looks at no other file: see ``verify_runtime_image``.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = decode(RuntimeImageManifest, path.read_bytes(), unknown="ignore")
    except OSError as error:
        raise ImageDamaged(
            f"the runtime image's {path} cannot be read", details=str(error), resolution=_REBUILD
        ) from error
    except CodecError as error:
        raise ImageDamaged(
            f"the runtime image's {path} is no manifest",
            details=str(error),
            resolution=_REBUILD,
        ) from error
    files = manifest.files
    if unknown := files.keys() - FILE_NAMES.keys():
        raise ImageDamaged(f"{path} names unknown files: {', '.join(sorted(unknown))}")
    if missing := _REQUIRED - files.keys():
        raise ImageDamaged(f"{path} does not name: {', '.join(sorted(missing))}")
    if image_digest(files) != manifest.digest:
        raise ImageDamaged(
            f"{path} is inconsistent",
            details=f"its files make {image_digest(files)}, it says {manifest.digest}",
            resolution=_REBUILD,
        )
    return manifest


def check_sizes(folder: Path, manifest: RuntimeImageManifest) -> None:
    """The cheap check: every file is there with the right size; else ``ImageDamaged``."""
    for key, sums in manifest.files.items():
        path = folder / FILE_NAMES[key]
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ImageDamaged(
                f"the runtime image's {path} is missing", details=str(error), resolution=_REBUILD
            ) from error
        if size != sums.size_bytes:
            raise ImageDamaged(
                f"the runtime image's {path} has the wrong size",
                details=f"{size} bytes, the manifest says {sums.size_bytes}",
                resolution=_REBUILD,
            )


async def verify_runtime_image(
    folder: Path, *, copy_of: Path | None = None
) -> RuntimeImageManifest:
    """Check an image folder in full and return its manifest.

    Every file is read and compared with its SHA-256; ``ImageDamaged`` names the first that is
    missing, truncated or changed, as the one in ``copy_of`` if ``folder`` is a copy of that.
    """
    manifest = await asyncio.to_thread(load_manifest, folder)
    await asyncio.to_thread(check_sizes, folder, manifest)
    paths = {key: folder / FILE_NAMES[key] for key in manifest.files}
    sums = await asyncio.gather(*(asyncio.to_thread(sum_file, path) for path in paths.values()))
    for (key, path), found in zip(paths.items(), sums, strict=True):
        check_sum((copy_of or folder) / path.name, found, manifest.files[key])
    return manifest


def check_sum(path: Path, found: FileSum, expected: FileSum, resolution: str = _REBUILD) -> None:
    """``ImageDamaged``, naming ``path``, if what was found there is not what is expected."""
    if found != expected:
        raise ImageDamaged(
            f"the runtime image's {path} is damaged",
            details=f"its SHA-256 is {found.sha256}, the manifest says {expected.sha256}",
            resolution=resolution,
        )


def stored_folder(storage: Path, digest: str) -> Path:
    """The folder in which the image with this digest is kept."""
    return storage / "runtime-images" / digest.removeprefix("sha256:")


async def import_runtime_image(source: Path, storage: Path) -> RuntimeImageManifest:
    """Check the image folder ``source`` and store a copy of it; already stored is fine.

    A copy, never a link: the files in ``source`` are the user's, who may go on writing to them.
    ``ImageDamaged`` when the source is; ``DiskFull`` when there is no room.
    """
    manifest = await asyncio.to_thread(load_manifest, source)
    await asyncio.to_thread(check_sizes, source, manifest)
    target = stored_folder(storage, manifest.digest)
    if await _is_stored(target) and not _shares_files(source, target, manifest):
        return await verify_runtime_image(source)
    async with staging(target) as folder:
        image = folder / "image"
        image.mkdir()
        names = [FILE_NAMES[key] for key in manifest.files]
        await asyncio.gather(
            *(asyncio.to_thread(copy_sparse, source / name, image / name) for name in names)
        )
        write_manifest(image, manifest)
        await verify_runtime_image(image, copy_of=source)
        await place(image, target)
    return manifest


async def import_bare_files(
    kernel: Path, rootfs: Path, initrd: Path | None, storage: Path, cmdline: str = DEFAULT_CMDLINE
) -> RuntimeImageManifest:
    """Make a stored image of single files, with an empty writable disk of our own.

    Kernel (ELF or bzImage), root file system (ext4) and initrd are told by their magic bytes;
    ``ImageDamaged`` or ``InvalidRequest`` says what else they are. The files are copied: they are
    the user's, who may go on writing to them. The root file system has to bring warmboot's agent.
    """
    check_kernel(kernel)
    check_ext4(rootfs)
    if initrd is not None:
        check_initrd(initrd)
    async with staging(stored_folder(storage, "bare")) as folder:
        image = folder / "image"
        image.mkdir()
        for key, path in (("kernel", kernel), ("initrd", initrd), ("rootfs", rootfs)):
            if path is not None:
                await asyncio.to_thread(copy_sparse, path, image / FILE_NAMES[key])
        await make_empty_disk(image / FILE_NAMES["disk"])
        labels = {"origin": "files", "kernel.path": str(kernel), "rootfs.path": str(rootfs)}
        agent = await agent_version_in(image / FILE_NAMES["rootfs"])
        manifest = await describe(image, cmdline, agent or UNKNOWN_AGENT, labels)
        await place_image(image, manifest, storage)
    return manifest


async def place_image(image: Path, manifest: RuntimeImageManifest, storage: Path) -> None:
    """Store the folder ``image``, which is whole but for its manifest; already stored is fine."""
    write_manifest(image, manifest)
    target = stored_folder(storage, manifest.digest)
    if not await _is_stored(target):
        await place(image, target)


async def _is_stored(target: Path) -> bool:
    """Whether a good copy is at ``target``. A damaged one is not, and will be replaced."""
    if not target.exists():
        return False
    try:
        await verify_runtime_image(target)
    except ImageDamaged:
        return False
    return True


def _shares_files(source: Path, target: Path, manifest: RuntimeImageManifest) -> bool:
    """Earlier versions stored links to the user's own files: those are replaced by copies."""
    names = [FILE_NAMES[key] for key in manifest.files]
    return any((source / name).samefile(target / name) for name in names)

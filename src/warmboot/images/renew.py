"""Replaces the guest agent in the root file system of a runtime image.

    rootfs.ext4 ──copied──▶ the agent's folder exchanged ──▶ checked, summed ──▶ a new image
    kernel, initrd, disk.ext4 ──hard links, with the sums that they have─────────┘

Only what speaks the protocol is exchanged. Configuration, init and packages stay as they are: they
may be the user's own.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from warmboot.images.ext4 import replace_folder
from warmboot.images.files import (
    FILE_NAMES,
    check_sizes,
    check_sum,
    image_digest,
    load_manifest,
    place_image,
    stored_folder,
)
from warmboot.images.guest_agent import FOLDER, SHIPPED, agent_version_in, agent_version_of
from warmboot.model.errors import HostError, NotSupported
from warmboot.model.runtime_image import RENEWED_FROM, FileSum, RuntimeImageManifest
from warmboot.system.hashing import copy_sparse, sum_file
from warmboot.system.programs import find_program
from warmboot.system.staging import staging

_BUILD = "build a new runtime image (`warmboot runtime build`) and register it"


async def renew_agent(source: Path, storage: Path, agent: Path = SHIPPED) -> RuntimeImageManifest:
    """Store the image folder ``source`` once more, with the package ``agent`` in the old one's
    place. ``source`` is only read, and the same two make the same image.

    ``NotSupported`` where there is no agent to be exchanged, or no program that can do it;
    ``ImageDamaged`` if the old root file system is not what it was, ``HostError`` if it cannot be
    changed, ``DiskFull``.
    """
    for tool in ("debugfs", "e2fsck"):
        find_program(tool)
    old = await asyncio.to_thread(load_manifest, source)
    await asyncio.to_thread(check_sizes, source, old)
    async with staging(stored_folder(storage, "renewed")) as folder:
        image, work = folder / "image", folder / "work"
        image.mkdir()
        work.mkdir()
        rootfs = image / FILE_NAMES["rootfs"]
        await asyncio.to_thread(copy_sparse, source / rootfs.name, rootfs)
        await _check(source / rootfs.name, rootfs, old.files["rootfs"])
        await _exchange(rootfs, source, agent, work)
        files = {**old.files, "rootfs": await asyncio.to_thread(sum_file, rootfs)}
        for key in files.keys() - {"rootfs"}:
            name = FILE_NAMES[key]
            await asyncio.to_thread(_link_or_copy, source / name, image / name)
            await _check(source / name, image / name, files[key])
        # No recipe makes it, and the files that it was first made of are still found to be known.
        labels = {key: value for key, value in old.labels.items() if key != "recipe"}
        labels.setdefault(RENEWED_FROM, old.digest)
        manifest = RuntimeImageManifest(
            image_digest(files), files, old.cmdline, agent_version_of(agent), labels
        )
        await place_image(image, manifest, storage)
    return manifest


async def _check(source: Path, taken: Path, expected: FileSum) -> None:
    """Damage must neither get a sum of its own nor go along."""
    check_sum(source, await asyncio.to_thread(sum_file, taken), expected, _BUILD)


def _link_or_copy(source: Path, target: Path) -> None:
    """Both are in the storage: nobody but warmboot writes there, and it does not."""
    try:
        os.link(source, target)
    except OSError:
        copy_sparse(source, target)


async def _exchange(rootfs: Path, source: Path, agent: Path, work: Path) -> None:
    try:
        if await agent_version_in(rootfs) is None:
            raise NotSupported(
                f"there is no warmboot guest agent in the runtime image {source}",
                details=f"its root file system has no {FOLDER} that says its version",
                resolution=_BUILD,
            )
        await replace_folder(rootfs, FOLDER, sorted(agent.glob("*.py")), work)
    except HostError as error:
        raise HostError(
            f"the root file system of the runtime image {source} cannot be changed",
            details=": ".join(part for part in (error.brief, error.details) if part),
            resolution=_BUILD,
        ) from error

"""Further versions of a snapshot that was built once: its files are copied, its row is too."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.support.vms import Site

from warmboot.host.snapshots.snapshot_files import SnapshotFiles, link_or_copy
from warmboot.host.vm.vm_files import VMM_GID
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import (
    DISK_FILE,
    FRAMES_FILE,
    MEMORY_FILE,
    METADATA_FILE,
    ROOTFS_FILE,
    STATE_FILE,
    BootStats,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.system.file_stamps import relinking, save_stamps, stamp
from warmboot.system.hashing import copy_sparse


async def shared_snapshot(site: Site) -> RuntimeSnapshot:
    """The one that is ready at the shared site."""
    async with site.store() as store:
        (ready,) = [s for s in await store.snapshots.list() if s.state is SnapshotState.READY]
        return ready


async def add_shared(site: Site, shared: Site, **fields: Any) -> RuntimeSnapshot:
    """The snapshot of the site ``shared``, as one of ``site``, where the same image is registered.

    It is one that has never been used.
    """
    async with site.store() as store:
        (image,) = await store.images.list()
    unused = {"success_count": 0, "boots": BootStats(), "last_used_at": None}
    return await add_copy(site, await shared_snapshot(shared), image, **{**unused, **fields})


async def add_copy(
    site: Site, source: RuntimeSnapshot, image: RuntimeImage | None = None, **fields: Any
) -> RuntimeSnapshot:
    """A copy of ``source`` that is ready, as a further version with these ``fields``.

    ``image`` is the same one where it is registered at another site.
    """
    async with site.store() as store:
        image = image or await store.images.get(source.runtime_image_id)
        files = SnapshotFiles(site.storage / "runtime-snapshots", VMM_GID)
        path = files.path(image.id, new_id := uuid4())
        await asyncio.to_thread(_copy_folder, source.snapshot_path, path, image.rootfs)
        copy = replace(
            source,
            **{"created_at": datetime.now(UTC), **fields},
            id=new_id,
            runtime_image_id=image.id,
            snapshot_path=path,
            state=SnapshotState.CREATING,
            version=0,
        )
        await store.snapshots.add(copy)
        return await store.snapshots.set_state(new_id, SnapshotState.READY)


def _copy_folder(source: Path, target: Path, rootfs: Path) -> None:
    target.mkdir(parents=True)
    others = [one for one in target.parent.iterdir() if one.is_dir()]
    with relinking(rootfs, [rootfs.parent, *others]):
        link_or_copy(rootfs, target / ROOTFS_FILE)
        os.chown(target / ROOTFS_FILE, 0, VMM_GID)
        (target / ROOTFS_FILE).chmod(0o440)
    memory = MEMORY_FILE if (source / MEMORY_FILE).exists() else FRAMES_FILE
    for name in (memory, STATE_FILE, DISK_FILE):
        copy_sparse(source / name, target / name)
    document = json.loads((source / METADATA_FILE).read_text())
    document["snapshot_id"] = target.name
    (target / METADATA_FILE).write_text(json.dumps(document))
    for path in (target.parent, target, *target.iterdir()):
        if path.name != ROOTFS_FILE:
            os.chown(path, 0, VMM_GID)
            path.chmod(0o710 if path.is_dir() else 0o440)
    # What was summed there is not summed again here: that takes seconds, for nothing.
    save_stamps(target, {name: stamp(target / name) for name in document["files"]})

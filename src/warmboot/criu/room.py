"""Whether the disks have room for a dump: when they are full after it, the process is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from warmboot.criu.containerd import scratch_folders
from warmboot.criu.continuity import memory_bytes
from warmboot.docker.facts import ContainerFacts, EngineFacts
from warmboot.model.errors import DiskFull, NotSupported

KEPT_COPIES = 2  # in containerd's content store, for a while, and in Docker's own folder
SPARE_BYTES = 64 << 20


def check_engine_room(facts: EngineFacts, container: ContainerFacts, socket: Path) -> None:
    """Check for room for a checkpoint made by the engine. ``DiskFull``, ``NotSupported``."""
    dump = memory_bytes(container.pid)
    data_root = facts.data_root
    scratch = next(iter(scratch_folders(socket)), Path(tempfile.gettempdir()))
    try:
        if data_root.stat().st_dev == scratch.stat().st_dev:
            needs = {data_root: (KEPT_COPIES + 1) * dump}
        else:
            needs = {data_root: KEPT_COPIES * dump, scratch: dump}
        room = {folder: shutil.disk_usage(folder).free for folder in needs}
    except OSError as error:
        raise NotSupported(
            "the engine's data folder is not accessible from here",
            details=str(error),
            resolution="run warmboot as root on the engine's own machine",
        ) from error
    for folder, bytes_ in needs.items():
        if room[folder] < bytes_ + SPARE_BYTES:
            raise _no_room(container, folder, bytes_ + SPARE_BYTES)


def _no_room(container: ContainerFacts, folder: Path, needed: int) -> DiskFull:
    return DiskFull(
        f"there is not enough space for a checkpoint of {container.name}",
        details=f"it needs about {needed >> 20} MiB below {folder}, where "
        f"{shutil.disk_usage(folder).free >> 20} MiB are free",
        resolution="delete checkpoints, containers or images that are not needed",
    )


def check_room(container: ContainerFacts, folder: Path) -> None:
    """Check for room for a checkpoint in ``folder``, which may not exist yet. ``DiskFull``."""
    needed = memory_bytes(container.pid) + _allocated(container.upper_folder) + SPARE_BYTES
    there = next(parent for parent in folder.parents if parent.is_dir())
    if shutil.disk_usage(there).free < needed:
        raise _no_room(container, there, needed)


def _allocated(layer: Path | None) -> int:
    """What a copy of the folder takes."""
    total = 0
    for folder, _, names in os.walk(layer) if layer is not None else ():
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(folder, name).lstat().st_blocks * 512
    return total

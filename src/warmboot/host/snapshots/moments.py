"""Snapshots of VMs in use: their disks, the tokens of their agents, and moments that follow others.

A moment's difference is over the memory that its VM was restored from. If that was itself laid over
a base, the two are merged: there is never a chain.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from warmboot.host.snapshots.memory_differences import StoredFile, merge_differences
from warmboot.host.snapshots.snapshot_manifest import damaged
from warmboot.model.runtime_snapshot import (
    DIFFERENCE_FILE,
    DISK_FILE,
    TOKEN_FILE,
    Moment,
    SnapshotManifest,
)
from warmboot.model.vm import Disk, DiskFormat
from warmboot.system.disks import os_error
from warmboot.system.file_stamps import UNFINISHED


def frozen_disk(snapshot: Path, moment: Moment) -> Disk:
    """The writable disk as it was."""
    if not moment.layers:
        return Disk(snapshot / DISK_FILE)
    top = snapshot / moment.layers[-1]
    return Disk(top, format=DiskFormat.QCOW2, base=moment.disk_base)


def write_token(folder: Path, token: str) -> None:
    """For root alone. It is of no use to who has it but on this machine, and to root."""
    path = folder / TOKEN_FILE
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    with os.fdopen(descriptor, "w") as file:
        file.write(token)


def read_token(snapshot: Path) -> str | None:
    """What the agent takes orders with in a VM that is restored from it; ``None``: it is nobody's.

    ``SnapshotDamaged``.
    """
    try:
        return (snapshot / TOKEN_FILE).read_text()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise damaged(snapshot, f"{TOKEN_FILE} cannot be read: {error}") from error


async def merge_with(lower: Path, manifest: SnapshotManifest, folder: Path) -> None:
    """Have the difference in ``folder``, which is over the memory of the moment ``lower``, be over
    the base of that. ``SnapshotDamaged``, ``DiskFull``."""
    below = StoredFile(
        lower / manifest.memory_file, manifest.compressed, manifest.files[manifest.memory_file]
    )
    await asyncio.to_thread(_merge, below, folder / DIFFERENCE_FILE)


def _merge(below: StoredFile, difference: Path) -> None:
    merged = difference.with_name(f"{DIFFERENCE_FILE}{UNFINISHED}")
    try:
        merged.unlink(missing_ok=True)
        merge_differences(below, StoredFile(difference), merged)
        merged.replace(difference)
    except OSError as error:
        raise os_error(error) from error

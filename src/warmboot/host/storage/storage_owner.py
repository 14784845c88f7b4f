"""The id of the database that a storage root belongs to, in a file there."""

from __future__ import annotations

import asyncio
from pathlib import Path

from warmboot.system.disks import os_error
from warmboot.system.file_stamps import UNFINISHED
from warmboot.system.files import sync

OWNER_FILE = "store-id"
_KEPT_FOR_IT = ("runtime-images/[!.]*", "runtime-snapshots/*/[!.]*", "vms/*")


async def owner_of(root: Path) -> str | None:
    """The id of the store; empty if somebody emptied the file; ``None`` if there is none."""
    try:
        return (await asyncio.to_thread((root / OWNER_FILE).read_text, errors="replace")).strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise os_error(error) from error


async def set_owner(root: Path, store_id: str) -> None:
    try:
        await asyncio.to_thread(_write, root, store_id)
    except OSError as error:
        raise os_error(error) from error


async def holds_anything(root: Path) -> bool:
    """Whether the storage root contains images, snapshots or VMs."""
    return await asyncio.to_thread(lambda: any(any(root.glob(path)) for path in _KEPT_FOR_IT))


def _write(root: Path, store_id: str) -> None:
    new = root / f".{OWNER_FILE}{UNFINISHED}"
    new.write_text(f"{store_id}\n")
    sync(new)
    new.rename(root / OWNER_FILE)
    sync(root)

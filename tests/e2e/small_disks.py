"""A site whose storage is a small file system of its own, which can be filled to the last page."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.vms import Site, state_root

from warmboot.system.disks import free_bytes


@contextlib.asynccontextmanager
async def small_site(
    name: str, image_folder: Path, size_mib: int, *, prefix: str, subnet: str, **settings: str
) -> AsyncIterator[Site]:
    """A manager that runs, with the runtime image ``default`` and no snapshot."""
    async with Site.at(state_root() / name, prefix=prefix, subnet=subnet) as site:
        site.storage.mkdir(mode=0o755)
        options = f"size={size_mib}m,mode=755"
        mount = ("mount", "-t", "tmpfs", "-o", options, "warmboot-e2e", str(site.storage))
        process = await asyncio.create_subprocess_exec(*mount)
        assert await process.wait() == 0
        site.settings |= {
            # The database elsewhere: as if another program filled the disk with the VMs.
            "MANAGER_DATABASE_URL": f"sqlite:///{site.folder / 'elsewhere.db'}",
            "MANAGER_DISK_FLOOR_MIB": "0",
            "MANAGER_AUTO_SNAPSHOT": "false",
            **settings,
        }
        await site.start()
        await site.cli("runtime", "register", "--name", "default", str(image_folder))
        yield site


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Not a page is free below ``folder``, from one moment to the next."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):  # somebody has taken of it meanwhile
            os.posix_fallocate(file.fileno(), 0, free_bytes(folder))
        file.seek(0, os.SEEK_END)
        with pytest.raises(OSError, match="No space left"):
            while True:  # what was given back meanwhile
                file.write(bytes(1 << 12))
    yield
    filler.unlink()

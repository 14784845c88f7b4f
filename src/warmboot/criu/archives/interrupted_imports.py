"""Removes what an interrupted import has left in a container that never ran."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from warmboot.criu.archives.layer_files import empty, is_imported
from warmboot.criu.archives.layers import IMPORTED
from warmboot.criu.runtime.stored import STAGING, STORE_ID
from warmboot.docker.engine import DockerEngine


async def discard_imports(
    engine: DockerEngine, container: str, kept: Collection[str], place: Path | None = None
) -> None:
    """Remove what interrupted imports have left in a container that never ran. Idempotent.

    ``kept`` are the names of the checkpoints that are known to be whole; ``place`` is the folder
    of all of them, if the engine does not keep them.
    """
    facts, found = await asyncio.gather(engine.remembered_facts(), engine.inspect(container))
    if place is None:
        for name in await engine.checkpoints(found.id):
            if name not in kept:
                await engine.delete_checkpoint(found.id, name)
    else:
        await asyncio.to_thread(_keep_only, place, kept)
    folders = [facts.checkpoint_folder(found.id, "any").parents[1]]
    if found.upper_folder is not None:
        folders.append(found.upper_folder.parent)
        if not kept:
            await asyncio.to_thread(_forget_files, found.upper_folder)
    for folder in folders:
        for left in await asyncio.to_thread(lambda at: list(at.glob(f"{STAGING}*")), folder):
            await asyncio.to_thread(shutil.rmtree, left, True)


def _keep_only(place: Path, kept: Collection[str]) -> None:
    with contextlib.suppress(FileNotFoundError):
        for path in list(place.iterdir()):
            if path.name not in (*kept, STORE_ID):
                shutil.rmtree(path, ignore_errors=True)


def _forget_files(upper: Path) -> None:
    if is_imported(upper):
        empty(upper)
        os.removexattr(upper, IMPORTED)

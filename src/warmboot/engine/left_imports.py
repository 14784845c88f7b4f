"""What an import that was interrupted has left in a container that never ran."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection

from warmboot.engine.client import DockerEngine

STAGING = ".warmboot-import-"
"""How the folder begins in which an import works."""


async def forget_imports(engine: DockerEngine, container: str, kept: Collection[str]) -> None:
    """Remove what interrupted imports have left in a container that never ran. Idempotent.

    ``kept`` are the names of the checkpoints that are known to be whole.
    """
    facts, found = await asyncio.gather(engine.remembered_facts(), engine.inspect(container))
    for name in await engine.checkpoints(found.id):
        if name not in kept:
            await engine.delete_checkpoint(found.id, name)
    folder = facts.checkpoint_folder(found.id, "any").parents[1]
    for left in await asyncio.to_thread(lambda: list(folder.glob(f"{STAGING}*"))):
        await asyncio.to_thread(shutil.rmtree, left, True)

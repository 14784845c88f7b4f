"""Wait until an engine is done with a dump or a restore that nobody waits for any more.

A manager that is killed leaves its engine at work: the dump goes on, ends the process, and its
images are still being copied for a while. Nothing tells from outside when that is over. But while
it goes on files grow: CRIU's in containerd's temporary folder, what containerd takes into its
content store, and the checkpoint's own. Once none of them has changed for some seconds it is over.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from warmboot.engine.facts import EngineFacts

QUIET_S = 3.0
LOOK_EVERY_S = 0.25
LONGEST_S = 3600.0
_DUMPS = "ctrd-checkpoint*"

Sight = frozenset[tuple[str, int, int]]


async def until_quiet(facts: EngineFacts, container_id: str, names: tuple[str, ...] = ()) -> None:
    """Return when nothing that belongs to such work has changed for ``QUIET_S``.

    ``names`` are the checkpoints that may be in the making. After an hour it gives up waiting.
    """
    loop = asyncio.get_running_loop()
    began = changed = loop.time()
    seen = await asyncio.to_thread(_look, facts, container_id, names)
    while loop.time() - changed < QUIET_S and loop.time() - began < LONGEST_S:
        await asyncio.sleep(LOOK_EVERY_S)
        now = await asyncio.to_thread(_look, facts, container_id, names)
        if now != seen:
            seen, changed = now, loop.time()


def _look(facts: EngineFacts, container_id: str, names: tuple[str, ...]) -> Sight:
    folders = [facts.checkpoint_folder(container_id, name) for name in names]
    folders += [store.parents[1] / "ingest" for store in facts.content_stores()]
    folders += facts.work_folders(container_id)
    folders += Path(tempfile.gettempdir()).glob(_DUMPS)
    return frozenset(one for folder in folders for one in _files(folder))


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    try:
        for path in folder.rglob("*"):
            found = path.lstat()
            yield str(path), found.st_size, found.st_mtime_ns
    except FileNotFoundError:  # gone in between: the next look sees it
        return

"""Whether a user of this machine may read a folder: asked as that user."""

from __future__ import annotations

import asyncio

from warmboot.host.folders.folder_server import groups_of
from warmboot.system.programs import run_program

_TIMEOUT_S = 20.0


async def may_read(uid: int, path: str) -> bool:
    """Enter it, and list what is in it. Root's work. ``HostError``."""
    gid, groups = await asyncio.to_thread(groups_of, uid)
    named = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    asked = ("test", "-r", path, "-a", "-x", path)
    rights = (f"--reuid={uid}", f"--regid={gid}", named)
    done = await run_program("setpriv", *rights, *asked, check=False, timeout_s=_TIMEOUT_S)
    return done.code == 0

"""Checks that a storage root belongs to this database, before the manager changes anything in it.

What a database does not know is nobody's, and is removed at the start, running VMs included. With a
mistyped URL that would be everything. So the database has an id, and the folder a file with it:

    the file names    the database              the manager
    its id                                      starts
    another one                                 refuses
    nothing (empty)                             takes the folder over: a person wants it so
    (no file)         knows something, or       takes it over: a new folder, or one from before
                      nothing lies there        there were ids
    (no file)         knows nothing, but        refuses
                      something lies there
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from uuid import uuid4

import structlog

from warmboot.host.storage.storage_owner import OWNER_FILE, holds_anything, owner_of, set_owner
from warmboot.model.errors import Conflict
from warmboot.store import Store

log = structlog.get_logger(__name__)

STORE_ID = "store.id"


async def check_storage_owner(store: Store, root: Path) -> None:
    """``Conflict`` if ``root`` is another store's."""
    owner, ours = await owner_of(root), await store.meta.get(STORE_ID)
    if owner and owner == ours:
        return
    if owner:
        raise _refusal(root, f"the file says {owner}, and this database is {ours or 'a new one'}")
    if owner is None and await holds_anything(root) and not await _knows_anything(store):
        raise _refusal(root, "images, snapshots or VMs lie there, and this database knows of none")
    # The database first: a folder that names one that does not know of it would be refused.
    ours = await store.meta.set_default(STORE_ID, str(uuid4()))
    await set_owner(root, ours)
    log.info(f"{root} belongs to the database {ours} from now on")


async def _knows_anything(store: Store) -> bool:
    counts = await store.counts.take()
    return bool(counts.images or counts.snapshots or counts.containers or counts.vms)


def _refusal(root: Path, why: str) -> Conflict:
    file = quote(str(root / OWNER_FILE))
    return Conflict(
        f"the storage folder {root} belongs to another database",
        details=f"{why}; everything that it does not know would be removed, running VMs included",
        resolution="correct MANAGER_DATABASE_URL or MANAGER_STORAGE_ROOT; or, to give the folder "
        f"to this database and have all else in it removed, empty the file: `: > {file}`",
    )

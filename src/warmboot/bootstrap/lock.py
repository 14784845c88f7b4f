"""Takes the locks of a manager, as its settings require, before anything else is done.

All the parts of a manager take longer to import than a second manager should wait for its refusal.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from warmboot.host.manager_lock import only_manager
from warmboot.settings import Settings


def hold_host(settings: Settings) -> AbstractContextManager[None]:
    """Hold storage root, prefix and database; ``Conflict`` if another manager has one of them."""
    from warmboot.store.address import database_file

    return only_manager(
        settings.storage_root,
        _url(settings),
        prefix=_prefix(settings),
        database=database_file(settings.effective_database_url),
    )


def check_host(settings: Settings) -> None:
    """``Conflict`` if another manager has the storage root or the prefix at the moment."""
    with only_manager(settings.storage_root, _url(settings), prefix=_prefix(settings)):
        pass


def _url(settings: Settings) -> str:
    return f"http://{settings.host}:{settings.port}"


def _prefix(settings: Settings) -> str | None:
    """Simulated VMs have no networks."""
    return None if settings.hypervisor == "simulated" else settings.network_prefix

"""The Python client of warmboot's API."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warmboot.client.client import DEFAULT_URL, Client
    from warmboot.client.problems import ManagerUnreachable
    from warmboot.client.sessions import Session
    from warmboot.client.sync.client import SyncClient

__all__ = ["DEFAULT_URL", "Client", "ManagerUnreachable", "Session", "SyncClient"]

_MODULES = {
    "ManagerUnreachable": "problems",
    "Session": "sessions",
    "SyncClient": "sync.client",
}


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: a command needs a part of it at most."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'client')}")
    return getattr(module, name)

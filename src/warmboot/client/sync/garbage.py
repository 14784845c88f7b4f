"""``warmboot.client.garbage`` without ``await``, by ``scripts/sync_client.py``."""

from __future__ import annotations

from warmboot.client.garbage import Collection  # keep
from warmboot.client.garbage import GarbageCollector as _GarbageCollector
from warmboot.client.sync.portal import Portal


class GarbageCollector:
    """What is not needed any more, and its removal."""

    def __init__(self, portal: Portal, of: _GarbageCollector) -> None:
        self._portal, self._of = portal, of

    def collect(self, *, dry_run: bool = False) -> Collection:
        """Remove all garbage, or with ``dry_run`` only list what would be removed."""
        return self._portal.run(lambda: self._of.collect(dry_run=dry_run))

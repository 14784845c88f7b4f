"""The boots of the last minutes, for ``warmboot top``."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from statistics import median

from warmboot.model.journal.event import Event
from warmboot.model.tenants.boot import BootMethod
from warmboot.model.usage import Boot, BootSummary

KEEP = 10_000
REPLAY = 1_000
BOOTED = ("container.booted", "engine.booted")


class RecentBoots:
    """The newest boots, ``KEEP`` at most; those before this process are replayed from events."""

    def __init__(self) -> None:
        self._boots: deque[Boot] = deque(maxlen=KEEP)

    def __call__(self, event: Event) -> None:
        if event.kind not in BOOTED or event.data.get("seconds") is None:
            return
        self._boots.append(
            Boot(
                event.at,
                BootMethod(event.data["boot_method"]),
                event.data.get("reason") or "",
                float(event.data["seconds"]),
            )
        )

    def replay(self, events: Iterable[Event]) -> None:
        for event in events:
            self(event)

    def since(self, window_s: float) -> Mapping[BootMethod, BootSummary]:
        begin = datetime.now(UTC) - timedelta(seconds=window_s)
        found = [boot for boot in self._boots if boot.at >= begin]
        return {
            method: _summary([boot for boot in found if boot.method is method])
            for method in BootMethod
        }


def _summary(boots: list[Boot]) -> BootSummary:
    if not boots:
        return BootSummary()
    seconds = [boot.seconds for boot in boots]
    reasons = Counter(boot.reason for boot in boots if boot.reason)
    return BootSummary(len(boots), median(seconds), max(seconds), dict(reasons))

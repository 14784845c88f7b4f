"""What Prometheus sees of this service.

    events ──▶ EventCounts ──▶ counters and histograms ─┐
       │                                                ├──▶ /metrics
       └─────▶ RecentBoots   store, host ──▶ Look ──────┘
                   │
                   └──▶ GET /v1/system/usage

Use cases know nothing of it: what happens is counted from the events that they emit anyway, what is
there is looked up when somebody asks. Counters begin at zero with the process.
"""

from warmboot.manager.metrics.counts import EventCounts
from warmboot.manager.metrics.look import Caches, Look, ManagerMetrics
from warmboot.manager.metrics.recent_boots import RecentBoots

__all__ = ["Caches", "EventCounts", "Look", "ManagerMetrics", "RecentBoots"]

"""The Prometheus metrics of the service.

    events ──▶ EventCounts ──▶ counters and histograms ───────┐
       │                                                      ├──▶ /metrics
       └─────▶ RecentBoots   store, host ──▶ StateCollector ──┘
                   │
                   └──▶ GET /v1/system/usage

Use cases know nothing of it: what happens is counted from the events that they emit anyway, what is
there is looked up when somebody asks. Counters begin at zero with the process.
"""

from warmboot.manager.metrics.counts import EventCounts
from warmboot.manager.metrics.recent_boots import RecentBoots
from warmboot.manager.metrics.state_collector import Caches, ManagerMetrics, StateCollector
from warmboot.manager.metrics.warm_pool import WarmPoolMetrics

__all__ = [
    "Caches",
    "EventCounts",
    "ManagerMetrics",
    "RecentBoots",
    "StateCollector",
    "WarmPoolMetrics",
]

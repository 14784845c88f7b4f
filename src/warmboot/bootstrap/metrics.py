"""The wiring of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from warmboot.bootstrap.core import Core
from warmboot.manager.metrics import ManagerMetrics, StateCollector


def wire_metrics(core: Core) -> ManagerMetrics:
    collect = StateCollector(
        core.store,
        core.host,
        core.events,
        most=core.settings.max_runtime_snapshots,
        caches=_caches(core.settings.storage_root),
    )
    metrics = ManagerMetrics(core.events, collect)
    core.tasks.observe_failures(metrics.failed)
    return metrics


def _caches(root: Path) -> Mapping[str, Path]:
    """What may be thrown away, and is looked at for its size."""
    return {
        "archives": root / "archives",
        "memory": root / "cache" / "memory",
    }

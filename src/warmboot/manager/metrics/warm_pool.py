"""The metrics of the warm pool, as it is when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from warmboot.model.runtime_snapshot import Depth
from warmboot.model.usage import PoolStatus

_DEPTHS = (Depth.RUNTIME, Depth.IMAGE)


class WarmPoolMetrics(Collector):
    """For a registry of metrics."""

    def __init__(self, status: Callable[[], PoolStatus]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        pool = self._status()
        vms = GaugeMetricFamily(
            "warmboot_warm_pool_vms",
            "VMs that are ready in the warm pool, by the depth of their snapshots",
            labels=("depth",),
        )
        for depth in _DEPTHS:
            ready = sum(one.ready for one in pool.snapshots if one.depth is depth)
            vms.add_metric([depth], ready)
        yield vms
        for name, text, value in (
            ("size", "VMs that it should have, by the demand and the free memory", pool.size),
            ("min", "MANAGER_POOL_MIN_VMS as it came out; 0 where the pool is off", pool.min),
            ("max", "MANAGER_POOL_MAX_VMS as it came out; 0 where the pool is off", pool.max),
            ("memory_short", "1 if it would be larger were more memory free", pool.memory_short),
        ):
            yield GaugeMetricFamily(f"warmboot_warm_pool_{name}", text, value=float(value))
        boots = CounterMetricFamily(
            "warmboot_warm_pool_boots",
            "Warm boots by whether they found a VM in the pool",
            labels=("outcome",),
        )
        boots.add_metric(["hit"], pool.hits)
        boots.add_metric(["miss"], pool.misses)
        yield boots
        yield CounterMetricFamily(
            "warmboot_warm_pool_evicted",
            "VMs of the pool that were ended so that another had memory",
            value=pool.evicted,
        )

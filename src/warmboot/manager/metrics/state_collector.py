"""Gauges that are computed when Prometheus scrapes: states, sizes, ages.

A snapshot is the only thing that is named, by its id: there are at most
``MANAGER_MAX_RUNTIME_SNAPSHOTS`` of them, and successors that are being built.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from warmboot import __version__
from warmboot.host.agent import HostAgent
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.metrics.counts import EventCounts
from warmboot.manager.metrics.recent_boots import REPLAY, RecentBoots
from warmboot.model.checkpoint import CheckpointState
from warmboot.model.container import ContainerState
from warmboot.model.errors import WarmbootError
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.tenants.engine import EngineState
from warmboot.model.vm import VmKind
from warmboot.model.worker import WorkerState
from warmboot.store import Store
from warmboot.store.repositories.counts import Counts
from warmboot.system.usage import allocated_below

log = structlog.get_logger(__name__)

Caches = Mapping[str, Path]
"""A cache's name and its folder."""


class ManagerMetrics:
    """Implements ``protocols.Metrics``. ``start`` once, after the event log has started."""

    def __init__(self, events: EventLog, collect: StateCollector) -> None:
        # A second series a counter, for nothing that anybody asks.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.boots = RecentBoots()
        self._events = events
        self._collect = collect
        self._failures = Counter(
            "warmboot_background_failures",
            "Rounds of work in the background that failed, by what they are for",
            ("work",),
            registry=self.registry,
        )
        for work in Work:  # a counter that appears with 1 has not increased
            self._failures.labels(work)
        ProcessCollector(registry=self.registry)
        events.observe(EventCounts(self.registry))
        events.observe(self.boots)

    async def start(self) -> None:
        self.boots.replay(await self._events.newest(REPLAY))

    def failed(self, work: Work) -> None:
        """Count a round that failed. No event tells it: the database may be why."""
        self._failures.labels(work).inc()

    async def collect(self) -> Sequence[Metric]:
        """Without a database that answers, what was counted is still worth showing."""
        name, text = "warmboot_look_complete", "0 if the database or the host did not answer"
        try:
            return [*await self._collect(), _gauge(name, text, 1)]
        except WarmbootError as error:
            log.warning(f"metrics are incomplete: {error.brief}", details=error.details)
            return [_gauge(name, text, 0)]


class StateCollector:
    """Call it for everything that is there at the moment."""

    def __init__(
        self, store: Store, host: HostAgent, events: EventLog, *, most: int, caches: Caches
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._most = most
        self._caches = caches

    async def __call__(self) -> Sequence[Metric]:
        counts = await self._store.counts.take()
        snapshots = await self._store.snapshots.list()
        sizes = await asyncio.to_thread(self._cache_sizes)
        return [
            await self._build_info(),
            *_of_counts(counts),
            *_of_snapshots(snapshots, counts, self._most),
            *self._of_host(sizes),
            _gauge("warmboot_event_streams", "Clients that follow events", self._events.followers),
        ]

    def _cache_sizes(self) -> Mapping[str, int]:
        return {name: allocated_below(folder) for name, folder in self._caches.items()}

    def _of_host(self, sizes: Mapping[str, int]) -> Iterable[Metric]:
        yield _gauge(
            "warmboot_vms_stalled",
            "Containers' VMs that stand still because the disk is full",
            self._host.vms.stalled,
        )
        storage = self._host.storage.usage()
        yield _gauge(
            "warmboot_storage_size_bytes",
            "Size of the file system below the storage root",
            storage.total_bytes,
        )
        yield _gauge(
            "warmboot_storage_free_bytes",
            "What is free of it, root's reserve left out",
            storage.free_bytes,
        )
        yield _gauge(
            "warmboot_storage_floor_bytes",
            "Nothing new is begun with less free than this (MANAGER_DISK_FLOOR_MIB)",
            storage.floor_bytes,
        )
        yield _by("warmboot_cache_bytes", "What lies on disk in a cache", "cache", sizes)

    async def _build_info(self) -> Metric:
        info = GaugeMetricFamily(
            "warmboot_build_info",
            "1; the labels tell the version and what it runs on",
            labels=("version", "python", "hypervisor", "hypervisor_version", "accelerator"),
        )
        here = (await self._host.probe()).host
        driver = (here.hypervisor, here.hypervisor_version, here.accelerator)
        info.add_metric([__version__, platform.python_version(), *driver], 1)
        return info


def _of_counts(counts: Counts) -> Iterable[Metric]:
    yield _gauge("warmboot_runtime_images", "Registered runtime images", counts.images)
    for name, help_, label, values, all_values in (
        ("snapshots", "Runtime snapshots by state", "state", counts.snapshots, SnapshotState),
        ("containers", "Containers by state", "state", counts.containers, ContainerState),
        ("engines", "Docker engines by state", "state", counts.engines, EngineState),
        ("workers", "Workers by state", "state", counts.workers, WorkerState),
        ("checkpoints", "Checkpoints by state", "state", counts.checkpoints, CheckpointState),
        ("vms", "VMs by what they are for", "kind", counts.vms, VmKind),
    ):
        yield _by(f"warmboot_{name}", help_, label, _all_of(all_values, values))
    yield _gauge(
        "warmboot_checkpoint_bytes", "Size of all workers' checkpoints", counts.checkpoint_bytes
    )
    yield _gauge(
        "warmboot_operations_running", "Journaled operations that are under way", counts.unfinished
    )


def _of_snapshots(
    snapshots: Sequence[RuntimeSnapshot], counts: Counts, most: int
) -> Iterable[Metric]:
    # More than the maximum only while successors are built; never without a bound.
    shown = snapshots[: 2 * most + 10]
    info = GaugeMetricFamily(
        "warmboot_snapshot_info",
        "1; the labels tell what kind of snapshot it is, and its state",
        labels=(
            *("snapshot", "depth", "version", "state", "pinned"),
            *("vcpus", "memory_mib", "hypervisor", "hypervisor_version"),
        ),
    )
    boots = CounterMetricFamily(
        "warmboot_snapshot_boots",
        "Warm boots from a snapshot; the database keeps these counts",
        labels=("snapshot", "outcome"),
    )
    gauges = {name: _empty(f"warmboot_snapshot_{name}", text) for name, text in _GAUGES.items()}
    for snapshot in shown:
        name, shape = str(snapshot.id), snapshot.shape
        kind = (snapshot.depth, str(snapshot.version), snapshot.state)
        pinned = "yes" if snapshot.pinned else "no"
        what = (*kind, pinned, str(shape.vcpus), str(shape.memory_mib))
        info.add_metric([name, *what, snapshot.hypervisor, snapshot.fc_version], 1)
        boots.add_metric([name, "succeeded"], snapshot.success_count)
        boots.add_metric([name, "failed"], snapshot.failure_count)
        for gauge, value in _values(snapshot, counts.leases.get(snapshot.id, 0)).items():
            if value is not None:
                gauges[gauge].add_metric([name], value)
    yield from (info, boots, *gauges.values())
    yield _gauge("warmboot_snapshots_max", "MANAGER_MAX_RUNTIME_SNAPSHOTS", most)


_GAUGES = {
    "stored_bytes": "What all its files take on disk",
    "memory_bytes": "Size of the memory that it holds",
    "memory_stored_bytes": "What that takes on disk",
    "compressed": "1 if its memory is stored compressed",
    "created_timestamp_seconds": "When its build was begun",
    "last_used_timestamp_seconds": "When a boot from it was last tried",
    "consecutive_failures": "Failed boots since the last one that worked",
    "leases": "VMs that need its files",
    "weight": "Its share of the boots among the versions of its image and shape",
    "cold_boot_seconds": "What a cold boot took on this host, where that was measured",
}


def _values(snapshot: RuntimeSnapshot, leases: int) -> Mapping[str, float | None]:
    known, used = snapshot.metadata, snapshot.last_used_at
    compressed_bytes = known.get("compressed_size_bytes")
    return {
        "stored_bytes": known.get("size_bytes"),
        "memory_bytes": known.get("mem_size_bytes"),
        "memory_stored_bytes": compressed_bytes or known.get("mem_stored_bytes"),
        "compressed": None if "compressed" not in known else float(bool(known["compressed"])),
        "created_timestamp_seconds": snapshot.created_at.timestamp(),
        "last_used_timestamp_seconds": None if used is None else used.timestamp(),
        "consecutive_failures": snapshot.consecutive_failures,
        "leases": leases,
        "weight": snapshot.weight,
        "cold_boot_seconds": known.get("cold_boot_s"),
    }


def _all_of(names: type[StrEnum], values: Mapping[str, int]) -> Mapping[str, int]:
    """Zeros included: a state that nobody is in is a fact, too."""
    return {str(name): values.get(str(name), 0) for name in names}


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _empty(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=("snapshot",))


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric([value], number)
    return family

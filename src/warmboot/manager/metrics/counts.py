"""Counters and histograms, updated from events.

Labels come from closed sets: boot methods, reasons, stages, kinds of events, codes of errors. No id
and no name that a user chose is ever a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from warmboot.manager.metrics.saved_time import ColdBoots
from warmboot.manager.metrics.tables import COUNTED, COUNTERS, build_kind
from warmboot.model.journal.event import Event
from warmboot.model.tenants.boot import BootMethod, FallbackReason

BOOT_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 30, 60, 120, 300)
BUILD_BUCKETS_S = (1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200)
BOOT_STAGES = frozenset({"snapshot", "network", "disk", "boot", "restore", "identity", "docker"})
"""Until Docker has answered; the others belong to the container in the VM."""

NO_REASON = "none"
_TRIED = (
    FallbackReason.NO_SNAPSHOT,
    FallbackReason.VERSION_MISMATCH,
    FallbackReason.HOST_MISMATCH,
    FallbackReason.SNAPSHOT_DAMAGED,
    FallbackReason.RESTORE_FAILED,
    FallbackReason.DOCKER_NOT_VERIFIED,
)
"""Why a warm boot that was begun can fail."""


class EventCounts:
    """An observer of the event log, counting into ``registry``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._cold_boots = ColdBoots()
        self._events = Counter(
            "warmboot_events", "Events by their kind", ("kind",), registry=registry
        )
        self._failures = Counter(
            "warmboot_failures",
            "Events that tell an error, by the event's kind and the error's code",
            ("kind", "cause"),
            registry=registry,
        )
        self._boots = Counter(
            "warmboot_boots",
            "Boots by method, by the reason why not warm, and by how they ended",
            ("method", "reason", "outcome"),
            registry=registry,
        )
        self._boot_seconds = Histogram(
            "warmboot_boot_seconds",
            "From the request until Docker in the VM has answered",
            ("method", "reason"),
            buckets=BOOT_BUCKETS_S,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "warmboot_boot_stage_seconds",
            "The stages from the request until the container's process was started",
            ("method", "stage"),
            buckets=BOOT_BUCKETS_S,
            registry=registry,
        )
        self._start_seconds = Histogram(
            "warmboot_container_start_seconds",
            "From the request until the container's process was started",
            ("method",),
            buckets=BOOT_BUCKETS_S,
            registry=registry,
        )
        self._saved = Counter(
            "warmboot_boot_saved_seconds",
            "What warm boots took less than measured cold boots of the same shape",
            registry=registry,
        )
        self._build_seconds = Histogram(
            "warmboot_snapshot_build_seconds",
            "From the begin of a snapshot's build until it was ready",
            ("kind",),
            buckets=BUILD_BUCKETS_S,
            registry=registry,
        )
        self._worker_seconds = Histogram(
            "warmboot_worker_operation_seconds",
            "Pauses, resumes and checkpoints of workers that worked",
            ("operation",),
            buckets=BOOT_BUCKETS_S,
            registry=registry,
        )
        self._table = {
            name: Counter(name, counter.help, counter.labels, registry=registry)
            for name, counter in COUNTERS.items()
        }
        self._begin_at_zero()
        self._kinds = {
            "container.booted": self._booted,
            "engine.booted": self._booted,
            "engine.failed": self._failed,
            "container.running": self._running,
            "container.failed": self._failed,
            "runtime-snapshot.boot-failed": self._boot_failed,
            "runtime-snapshot.ready": self._built,
            "worker.paused": self._worker_paused,
            "worker.running": self._worker_runs,
            "worker.exited": self._worker_runs,
        }

    def _begin_at_zero(self) -> None:
        """A counter that appears with 1 has not increased, as far as Prometheus can see."""
        self._boots.labels(BootMethod.WARM, NO_REASON, "succeeded")
        for reason in FallbackReason:
            self._boots.labels(BootMethod.COLD, reason, "succeeded")
            self._boots.labels(BootMethod.COLD, reason, "failed")
        for reason in _TRIED:
            self._boots.labels(BootMethod.WARM, reason, "failed")
        for name, counter in COUNTERS.items():
            for values in counter.from_the_beginning():
                self._table[name].labels(*values)

    def __call__(self, event: Event) -> None:
        data = event.data
        self._events.labels(event.kind).inc()
        error = data.get("error")
        if isinstance(error, Mapping) and "code" in error:
            self._failures.labels(event.kind, error["code"]).inc()
        for counted in COUNTED.get(event.kind, ()):
            for labels, amount in counted.of(data):
                counter = self._table[counted.counter]
                (counter.labels(**labels) if labels else counter).inc(amount)
        special = self._kinds.get(event.kind)
        if special is not None:
            special(data)

    def _booted(self, data: Mapping[str, Any]) -> None:
        method = BootMethod(data["boot_method"])
        reason = data.get("reason") or NO_REASON
        self._boots.labels(method, reason, "succeeded").inc()
        seconds = data.get("seconds")
        if seconds is None:  # an earlier manager's
            return
        self._boot_seconds.labels(method, reason).observe(seconds)
        for stage in data.get("stages", ()):
            self._stage_seconds.labels(method, stage["name"]).observe(stage["seconds"])
        if method is BootMethod.COLD:
            self._cold_boots.add(data.get("shape"), reason, seconds)
        else:
            cold_s = data.get("cold_boot_s")
            self._saved.inc(self._cold_boots.saved_s(data.get("shape"), cold_s, seconds))

    def _running(self, data: Mapping[str, Any]) -> None:
        method, seconds = data.get("boot_method"), data.get("seconds")
        if method is None or seconds is None:  # started again in the VM that it has
            return
        self._start_seconds.labels(method).observe(seconds)
        for stage in data.get("stages", ()):
            if stage["name"] not in BOOT_STAGES:
                self._stage_seconds.labels(method, stage["name"]).observe(stage["seconds"])

    def _failed(self, data: Mapping[str, Any]) -> None:
        if data.get("stage") in BOOT_STAGES:
            reason = data.get("reason") or NO_REASON
            self._boots.labels(BootMethod.COLD, reason, "failed").inc()

    def _boot_failed(self, data: Mapping[str, Any]) -> None:
        self._boots.labels(BootMethod.WARM, data.get("reason") or NO_REASON, "failed").inc()

    def _built(self, data: Mapping[str, Any]) -> None:
        if data.get("seconds") is not None:
            self._build_seconds.labels(build_kind(data)).observe(data["seconds"])

    def _worker_paused(self, data: Mapping[str, Any]) -> None:
        self._worker_did("pause", data)

    def _worker_runs(self, data: Mapping[str, Any]) -> None:
        # After a checkpoint that left it running its size is told, after a resume the attempts.
        if "attempts" in data:
            self._worker_did("resume", data)
        elif "size_bytes" in data:
            self._worker_did("checkpoint", data)

    def _worker_did(self, operation: str, data: Mapping[str, Any]) -> None:
        if data.get("duration_s") is not None:
            self._worker_seconds.labels(operation).observe(data["duration_s"])

"""What events become as counters and histograms, without a manager."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from warmboot.manager.metrics import EventCounts, RecentBoots
from warmboot.manager.metrics.tables import COUNTED, COUNTERS
from warmboot.model.journal.event import Event
from warmboot.model.tenants.boot import BootMethod


class Counting:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.count = EventCounts(self.registry)

    def tell(self, kind: str, **data: Any) -> None:
        self.count(Event(1, datetime.now(UTC), kind, "subject", data))

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def counting() -> Counting:
    return Counting()


def warm(seconds: float, cold_boot_s: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "boot_method": "warm",
        "reason": None,
        "seconds": seconds,
        "shape": [2, 768],
        "cold_boot_s": cold_boot_s,
        **more,
    }


def cold(seconds: float, reason: str = "requested", **more: Any) -> dict[str, Any]:
    return {"boot_method": "cold", "reason": reason, "seconds": seconds, "shape": [2, 768], **more}


SAVED = "warmboot_boot_saved_seconds_total"


def test_time_saved_is_against_the_snapshots_own_cold_boot(counting: Counting) -> None:
    counting.tell("container.booted", **cold(100.0))
    counting.tell("container.booted", **warm(1.0, cold_boot_s=31.0))
    assert counting.value(SAVED) == 30.0


def test_where_that_is_not_known_the_median_of_cold_boots_counts(counting: Counting) -> None:
    for seconds in (10.0, 12.0, 50.0):
        counting.tell("container.booted", **cold(seconds))
    counting.tell("container.booted", **warm(2.0))
    assert counting.value(SAVED) == 10.0


def test_cold_boots_of_another_shape_or_after_a_warm_try_do_not_count(counting: Counting) -> None:
    counting.tell("container.booted", **cold(90.0) | {"shape": [4, 4096]})
    counting.tell("container.booted", **cold(90.0, "restore_failed"))
    counting.tell("container.booted", **cold(90.0, "snapshot_wait_timeout"))
    counting.tell("container.booted", **warm(2.0))
    assert counting.value(SAVED) == 0.0


def test_a_warm_boot_that_was_slower_saves_nothing_and_takes_nothing_back(
    counting: Counting,
) -> None:
    counting.tell("container.booted", **warm(1.0, cold_boot_s=11.0))
    counting.tell("container.booted", **warm(15.0, cold_boot_s=11.0))
    assert counting.value(SAVED) == 10.0


def test_a_boot_that_an_earlier_manager_timed_is_counted_without_a_time(
    counting: Counting,
) -> None:
    counting.tell("container.booted", boot_method="warm", reason=None)
    labels = {"method": "warm", "reason": "none"}
    assert counting.value("warmboot_boots_total", outcome="succeeded", **labels) == 1
    assert counting.value("warmboot_boot_seconds_count", **labels) is None


def test_stages_of_the_boot_are_not_counted_again_when_it_runs(counting: Counting) -> None:
    stages = [{"name": "restore", "seconds": 0.2}]
    counting.tell("container.booted", **warm(0.5, stages=stages))
    stages = [*stages, {"name": "start", "seconds": 1.0}]
    counting.tell("container.running", boot_method="warm", seconds=1.5, stages=stages)
    counting.tell("container.running")  # started again, in the VM that it has
    name = "warmboot_boot_stage_seconds_count"
    assert counting.value(name, method="warm", stage="restore") == 1
    assert counting.value(name, method="warm", stage="start") == 1
    assert counting.value("warmboot_container_start_seconds_count", method="warm") == 1


@pytest.mark.parametrize(
    ("stage", "failed"), [("docker", 1.0), ("identity", 1.0), ("pull", 0.0), (None, 0.0)]
)
def test_a_container_that_fails_after_its_boot_is_no_failed_boot(
    counting: Counting, stage: str | None, failed: float
) -> None:
    error = {"code": "registry-unavailable"}
    counting.tell("container.failed", stage=stage, reason="no_snapshot", error=error)
    labels = {"method": "cold", "reason": "no_snapshot", "outcome": "failed"}
    assert counting.value("warmboot_boots_total", **labels) == failed
    labels = {"kind": "container.failed", "cause": "registry-unavailable"}
    assert counting.value("warmboot_failures_total", **labels) == 1


def test_workers_operations_are_told_apart(counting: Counting) -> None:
    told = {"checkpoint": "a", "duration_s": 0.4}
    counting.tell("worker.paused", **told, size_bytes=10)
    counting.tell("worker.paused")  # found paused after a crash: nobody knows how long it took
    counting.tell("worker.running", **told, size_bytes=10)
    counting.tell("worker.running", **told, attempts=1)
    counting.tell("worker.running")  # created
    counting.tell("worker.exited", **told, attempts=1, exit_code=0)
    name = "warmboot_worker_operation_seconds_count"
    assert counting.value(name, operation="pause") == 1
    assert counting.value(name, operation="checkpoint") == 1
    assert counting.value(name, operation="resume") == 2


def test_collections_add_up_what_they_freed_and_why(counting: Counting) -> None:
    counting.tell(
        "garbage.collected", removed=3, freed_bytes=500, reasons={"unused": 2, "orphan": 1}
    )
    counting.tell("garbage.collected", removed=0, freed_bytes=0, reasons={})
    assert counting.value("warmboot_garbage_collections_total") == 2
    assert counting.value("warmboot_garbage_freed_bytes_total") == 500
    assert counting.value("warmboot_garbage_removed_total", reason="unused") == 2


def test_a_build_that_fails_before_its_canary_had_none(counting: Counting) -> None:
    counting.tell("runtime-snapshot.ready", seconds=3.0, replaces=None)
    counting.tell("runtime-snapshot.failed", error={"code": "guest-unreachable"}, replaces=None)
    counting.tell("runtime-snapshot.failed", error={"code": "canary-failed"}, replaces="x")
    name = "warmboot_snapshot_canaries_total"
    assert counting.value(name, outcome="succeeded") == 1
    assert counting.value(name, outcome="failed") == 1
    builds = "warmboot_snapshot_builds_total"
    assert counting.value(builds, kind="build", outcome="failed") == 1
    assert counting.value(builds, kind="rebuild", outcome="failed") == 1


@pytest.mark.parametrize("kind", [*COUNTED, "container.booted", "container.stage", "new.kind"])
def test_an_event_with_nothing_in_it_does_no_harm(counting: Counting, kind: str) -> None:
    counting.tell(kind, **({"boot_method": "cold"} if kind == "container.booted" else {}))
    assert counting.value("warmboot_events_total", kind=kind) == 1


def test_the_table_names_counters_that_are_there() -> None:
    assert {entry.counter for entries in COUNTED.values() for entry in entries} == set(COUNTERS)


def test_recent_boots_forget_what_is_older_than_the_window() -> None:
    boots = RecentBoots()
    now = datetime.now(UTC)
    for number, (minutes, seconds) in enumerate(((10, 9.0), (2, 3.0), (1, 1.0), (0, 2.0))):
        at = now - timedelta(minutes=minutes)
        boots(Event(number, at, "container.booted", "x", warm(seconds)))
    boots(Event(9, now, "container.running", "x", {"seconds": 1}))
    found = boots.since(300)[BootMethod.WARM]
    assert (found.count, found.median_s, found.max_s) == (3, 2.0, 3.0)
    assert boots.since(300)[BootMethod.COLD].count == 0

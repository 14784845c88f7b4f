"""Events that only have to be counted: which counter, how much, with which labels.

To count a new event, add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CounterOf:
    """A counter's help text and its labels. Its name is the key in ``COUNTERS``."""

    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Counted:
    """An event adds to ``counter``: 1, or the number that stands in its data as ``amount``.

    ``labels`` are fixed, ``label_from`` are made from the data; they must come from a closed set.
    """

    counter: str
    labels: Mapping[str, str] = field(default_factory=dict)
    label_from: Mapping[str, Callable[[Data], str]] = field(default_factory=dict)
    amount: str = ""

    def labels_of(self, data: Data) -> dict[str, str]:
        return {**self.labels, **{name: of(data) for name, of in self.label_from.items()}}

    def amount_of(self, data: Data) -> float:
        """Counters never go down: what is negative or no number adds nothing."""
        if not self.amount:
            return 1
        value = data.get(self.amount)
        return max(0.0, float(value)) if isinstance(value, int | float) else 0.0


def build_kind(data: Data) -> str:
    """A first build, or one that takes the place of another."""
    return "rebuild" if data.get("replaces") else "build"


def exit_outcome(data: Data) -> str:
    if data.get("oom_killed"):
        return "out_of_memory"
    return "succeeded" if data.get("exit_code") == 0 else "failed"


COUNTERS: Mapping[str, CounterOf] = {
    "warmboot_snapshot_builds": CounterOf(
        "Builds and rebuilds of snapshots, by how they ended", ("kind", "outcome")
    ),
    "warmboot_snapshots_turned_unhealthy": CounterOf("Snapshots that became unhealthy"),
    "warmboot_container_exits": CounterOf("Containers' processes that ended", ("outcome",)),
    "warmboot_worker_failures": CounterOf(
        "Pauses, checkpoints (pause) and resumes of workers that failed", ("operation",)
    ),
}

COUNTED: Mapping[str, tuple[Counted, ...]] = {
    "runtime-snapshot.ready": (
        Counted("warmboot_snapshot_builds", {"outcome": "succeeded"}, {"kind": build_kind}),
    ),
    "runtime-snapshot.failed": (
        Counted("warmboot_snapshot_builds", {"outcome": "failed"}, {"kind": build_kind}),
    ),
    "runtime-snapshot.unhealthy": (Counted("warmboot_snapshots_turned_unhealthy"),),
    "container.exited": (Counted("warmboot_container_exits", {}, {"outcome": exit_outcome}),),
    "worker.pause-failed": (Counted("warmboot_worker_failures", {"operation": "pause"}),),
    "worker.resume-failed": (Counted("warmboot_worker_failures", {"operation": "resume"}),),
}

ZEROS: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "warmboot_snapshot_builds": tuple(
        {"kind": kind, "outcome": outcome}
        for kind in ("build", "rebuild")
        for outcome in ("succeeded", "failed")
    ),
    "warmboot_container_exits": tuple(
        {"outcome": outcome} for outcome in ("succeeded", "failed", "out_of_memory")
    ),
    "warmboot_worker_failures": ({"operation": "pause"}, {"operation": "resume"}),
}
"""The labels that a counter has before anything was counted."""

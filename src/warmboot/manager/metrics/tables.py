"""Tables of events that are only counted: the counter, the amount, the labels.

To count a new event, add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

Data = Mapping[str, Any]
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CounterOf:
    """A counter's help text, its labels, and the label values that it has from the beginning."""

    help: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()

    def from_the_beginning(self) -> Iterable[tuple[str, ...]]:
        return product(*self.values) if self.values else ()


@dataclass(frozen=True, slots=True)
class Counted:
    """An event adds to ``counter``; ``of`` tells from its data how much, with which labels."""

    counter: str
    of: Callable[[Data], Iterable[tuple[Labels, float]]]


def once(**labels: str) -> Callable[[Data], Iterable[tuple[Labels, float]]]:
    return lambda _: [(labels, 1)]


def number(key: str) -> Callable[[Data], Iterable[tuple[Labels, float]]]:
    """The number that stands in the data; counters never go down."""

    def of(data: Data) -> Iterable[tuple[Labels, float]]:
        value = data.get(key)
        return [({}, float(value))] if isinstance(value, int | float) and value > 0 else []

    return of


def build_kind(data: Data) -> str:
    """A first build, or one that takes the place of another."""
    return "rebuild" if data.get("replaces") else "build"


def _built(outcome: str) -> Callable[[Data], Iterable[tuple[Labels, float]]]:
    return lambda data: [({"kind": build_kind(data), "outcome": outcome}, 1)]


def _canary(data: Data) -> Iterable[tuple[Labels, float]]:
    """A build ends with its canary: it is ready after it, or failed by it, or failed before."""
    code = (data.get("error") or {}).get("code")
    if code in (None, "canary-failed"):
        yield {"outcome": "failed" if code else "succeeded"}, 1


def _exit(data: Data) -> Iterable[tuple[Labels, float]]:
    if data.get("oom_killed"):
        return [({"outcome": "out_of_memory"}, 1)]
    return [({"outcome": "succeeded" if data.get("exit_code") == 0 else "failed"}, 1)]


def _reasons(data: Data) -> Iterable[tuple[Labels, float]]:
    return [({"reason": reason}, count) for reason, count in (data.get("reasons") or {}).items()]


_OUTCOME = ("succeeded", "failed")

COUNTERS: Mapping[str, CounterOf] = {
    "warmboot_snapshot_builds": CounterOf(
        "Builds and rebuilds of snapshots, by how they ended",
        ("kind", "outcome"),
        (("build", "rebuild"), _OUTCOME),
    ),
    "warmboot_snapshot_canaries": CounterOf(
        "Canary boots of new snapshots, by how they ended", ("outcome",), (_OUTCOME,)
    ),
    "warmboot_snapshot_rebuilds_given_up": CounterOf(
        "Snapshots that the manager does not try to rebuild any more"
    ),
    "warmboot_snapshots_turned_unhealthy": CounterOf("Snapshots that became unhealthy"),
    "warmboot_snapshots_turned_unusable": CounterOf(
        "Snapshots that do not fit this host any more (another hypervisor version, CPU, …)"
    ),
    "warmboot_snapshot_compressions": CounterOf(
        "Changes of how a snapshot's memory is stored, by how they ended",
        ("action", "outcome"),
        (("compress", "unpack"), _OUTCOME),
    ),
    "warmboot_snapshot_checks": CounterOf(
        "Integrity checks of snapshots' files, by what was found",
        ("outcome",),
        (("intact", "damaged"),),
    ),
    "warmboot_garbage_collections": CounterOf("Garbage collections that came to their end"),
    "warmboot_garbage_removed": CounterOf("Things that were collected, by why", ("reason",)),
    "warmboot_garbage_freed_bytes": CounterOf("What collections gave back on disk"),
    "warmboot_container_exits": CounterOf(
        "Containers' processes that ended", ("outcome",), ((*_OUTCOME, "out_of_memory"),)
    ),
    "warmboot_worker_failures": CounterOf(
        "Pauses (checkpoints too) and resumes of workers that failed",
        ("operation",),
        (("pause", "resume"),),
    ),
}

COUNTED: Mapping[str, tuple[Counted, ...]] = {
    "runtime-snapshot.ready": (
        Counted("warmboot_snapshot_builds", _built("succeeded")),
        Counted("warmboot_snapshot_canaries", _canary),
    ),
    "runtime-snapshot.failed": (
        Counted("warmboot_snapshot_builds", _built("failed")),
        Counted("warmboot_snapshot_canaries", _canary),
    ),
    "runtime-snapshot.given-up": (Counted("warmboot_snapshot_rebuilds_given_up", once()),),
    "runtime-snapshot.unhealthy": (Counted("warmboot_snapshots_turned_unhealthy", once()),),
    "runtime-snapshot.unusable": (Counted("warmboot_snapshots_turned_unusable", once()),),
    "runtime-snapshot.compressed": (
        Counted("warmboot_snapshot_compressions", once(action="compress", outcome="succeeded")),
    ),
    "runtime-snapshot.unpacked": (
        Counted("warmboot_snapshot_compressions", once(action="unpack", outcome="succeeded")),
    ),
    "runtime-snapshot.compress-failed": (
        Counted("warmboot_snapshot_compressions", once(action="compress", outcome="failed")),
    ),
    "runtime-snapshot.unpack-failed": (
        Counted("warmboot_snapshot_compressions", once(action="unpack", outcome="failed")),
    ),
    "runtime-snapshot.checked": (Counted("warmboot_snapshot_checks", once(outcome="intact")),),
    "runtime-snapshot.damaged": (Counted("warmboot_snapshot_checks", once(outcome="damaged")),),
    "garbage.collected": (
        Counted("warmboot_garbage_collections", once()),
        Counted("warmboot_garbage_removed", _reasons),
        Counted("warmboot_garbage_freed_bytes", number("freed_bytes")),
    ),
    "container.exited": (Counted("warmboot_container_exits", _exit),),
    "worker.pause-failed": (Counted("warmboot_worker_failures", once(operation="pause")),),
    "worker.resume-failed": (Counted("warmboot_worker_failures", once(operation="resume")),),
}

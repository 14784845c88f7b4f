"""Which snapshot a boot uses, or why none: a pure decision."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from warmboot.model.container import FallbackReason
from warmboot.model.runtime_snapshot import (
    HostRequirements,
    RuntimeSnapshot,
    SnapshotState,
    unmet_requirement,
)
from warmboot.model.shapes import Shape


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot that is not deleted, and what it needs of a host (``None`` while it is made)."""

    snapshot: RuntimeSnapshot
    requires: HostRequirements | None


@dataclass(frozen=True, slots=True)
class Use:
    snapshot: RuntimeSnapshot


@dataclass(frozen=True, slots=True)
class Wait:
    """None is ready, but one is being made."""

    snapshot: RuntimeSnapshot


@dataclass(frozen=True, slots=True)
class Fallback:
    reason: FallbackReason
    details: str = ""


Choice = Use | Wait | Fallback


def choose_snapshot(
    candidates: Collection[Candidate], shape: Shape | None, default: Shape, here: HostRequirements
) -> Choice:
    """Decide for a boot of ``shape`` (``None``: the user does not mind) on the host ``here``.

    Ready and fitting beats being made, which beats the reasons against: a mismatch says more than
    an unhealthy snapshot, and that more than another shape. Among ready ones the default shape
    comes first, then the newest.
    """
    if not candidates:
        return Fallback(FallbackReason.NO_SNAPSHOT)
    fitting = [c for c in candidates if shape is None or c.snapshot.shape == shape]
    if not fitting:
        shapes = ", ".join(sorted({str(c.snapshot.shape) for c in candidates}))
        return Fallback(
            FallbackReason.SHAPE_MISMATCH, f"asked for {shape}; snapshots have: {shapes}"
        )
    fitting.sort(key=lambda c: (c.snapshot.shape == default, c.snapshot.created_at), reverse=True)
    ready = [c for c in fitting if c.snapshot.state is SnapshotState.READY]
    unmet = {c.snapshot.id: c.requires and unmet_requirement(c.requires, here) for c in ready}
    for candidate in ready:
        if unmet[candidate.snapshot.id] is None:
            return Use(candidate.snapshot)
    for candidate in fitting:
        if candidate.snapshot.state is SnapshotState.CREATING:
            return Wait(candidate.snapshot)
    if ready:
        details = unmet[ready[0].snapshot.id] or ""
        reason = (
            FallbackReason.VERSION_MISMATCH
            if details.startswith("hypervisor version")
            else FallbackReason.HOST_MISMATCH
        )
        return Fallback(reason, details)
    unhealthy = fitting[0].snapshot
    cause = (unhealthy.error or {}).get("brief", "")
    return Fallback(FallbackReason.SNAPSHOT_UNHEALTHY, str(cause))

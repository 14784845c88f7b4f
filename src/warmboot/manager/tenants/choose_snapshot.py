"""Chooses the snapshot of a boot, or the reason for a cold one: a pure function.

Several versions of one shape may be ready. One of them is drawn, each as often as its weight is a
part of all weights. A version of weight 0 is a spare: it is taken only when no other is left
that has weight, and of several such the newest. So with all weights 0 the newest serves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from warmboot.model.runtime_snapshot import HostRequirements, RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.model.snapshot_fit import Fit, agent_of, fit_of_ready
from warmboot.model.tenants.boot import FallbackReason


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
    candidates: Collection[Candidate],
    shape: Shape | None,
    default: Shape,
    here: HostRequirements,
    draw: float = 0.0,
    tried: Collection[UUID] = (),
) -> Choice:
    """Decide for a boot of ``shape`` (``None``: the user does not mind) on the host ``here``.

    Ready and fitting beats being made, which beats the reasons against: a mismatch says more than
    an unhealthy snapshot, and that more than another shape. Among ready ones the default shape
    comes first, then the shape of the newest; among the versions of one shape, ``draw`` (from 0 to
    below 1, evenly spread) decides by their weights. Those in ``tried`` have failed just now.
    """
    if not candidates:
        return Fallback(FallbackReason.NO_SNAPSHOT)
    fitting = [c for c in candidates if shape is None or c.snapshot.shape == shape]
    if not fitting:
        shapes = ", ".join(sorted({str(c.snapshot.shape) for c in candidates}))
        return Fallback(
            FallbackReason.SHAPE_MISMATCH, f"asked for {shape}; snapshots have: {shapes}"
        )
    fitting.sort(key=lambda c: (c.snapshot.shape == default, *_age(c.snapshot)), reverse=True)
    ready = [c for c in fitting if c.snapshot.state is SnapshotState.READY]
    fits = {c.snapshot.id: _fit(c, here) for c in ready}
    usable = [c.snapshot for c in ready if fits[c.snapshot.id].usable]
    left = [snapshot for snapshot in usable if snapshot.id not in tried]
    if left:
        return Use(draw_version([s for s in left if s.shape == left[0].shape], draw))
    for candidate in fitting:
        if candidate.snapshot.state is SnapshotState.CREATING:
            return Wait(candidate.snapshot)
    if usable:
        return Fallback(FallbackReason.SNAPSHOT_UNHEALTHY, "every ready version was tried")
    if ready:
        first = fits[ready[0].snapshot.id]
        version = first.requirement == "hypervisor_version"
        reason = FallbackReason.VERSION_MISMATCH if version else FallbackReason.HOST_MISMATCH
        return Fallback(reason, first.why)
    unhealthy = fitting[0].snapshot
    cause = (unhealthy.error or {}).get("brief", "")
    return Fallback(FallbackReason.SNAPSHOT_UNHEALTHY, str(cause))


def draw_version(versions: Sequence[RuntimeSnapshot], draw: float) -> RuntimeSnapshot:
    """One of ``versions`` (at least one) by weight; see above for those without."""
    newest_first = sorted(versions, key=_age, reverse=True)
    total = sum(version.weight for version in newest_first)
    if total <= 0:
        return newest_first[0]
    weighted = [version for version in newest_first if version.weight > 0]
    point, reached = draw * total, 0.0
    for version in weighted:
        reached += version.weight
        if point < reached:
            return version
    return weighted[-1]  # what rounding has left


def _age(snapshot: RuntimeSnapshot) -> tuple[object, ...]:
    """Sorts old before new; the rest only so that the order is always the same."""
    return snapshot.created_at, snapshot.version, snapshot.id


def _fit(candidate: Candidate, here: HostRequirements) -> Fit:
    return fit_of_ready(candidate.requires, agent_of(candidate.snapshot), here)

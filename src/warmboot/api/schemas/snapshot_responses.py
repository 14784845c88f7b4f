"""Response models for runtime snapshots: the specification's fields, and more."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from warmboot.api.schemas.responses import ShapeOut
from warmboot.model.runtime_snapshot import BuildCause, RuntimeSnapshot, SnapshotState
from warmboot.model.snapshot_fit import Fit


class RebuildStarted(BaseModel):
    id: UUID
    message: str = "Snapshot rebuild initiated"


class BootSecondsOut(BaseModel):
    """Seconds of good warm boots; ``median`` of the last 50, ``mean`` of all."""

    count: int
    median: float | None
    mean: float | None


class SnapshotStatsOut(BaseModel):
    boots: int = Field(description="tried: successes and failures")
    successes: int
    failures: int
    boot_s: BootSecondsOut

    @classmethod
    def of(cls, snapshot: RuntimeSnapshot) -> Self:
        good, bad, boots = snapshot.success_count, snapshot.failure_count, snapshot.boots
        seconds = BootSecondsOut(
            count=boots.count, median=_rounded(boots.median_s), mean=_rounded(boots.mean_s)
        )
        return cls(boots=good + bad, successes=good, failures=bad, boot_s=seconds)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


class RuntimeSnapshotOut(BaseModel):
    """``fc_version`` is the hypervisor's version; the name is the specification's.

    ``usable`` is apart from ``state``: a ``ready`` one that does not fit this host is not usable
    here, and ``unmet_requirement`` and ``unusable_because`` say why; it is not broken.
    """

    id: UUID
    runtime_image_id: UUID
    snapshot_path: str
    state: SnapshotState
    fc_version: str
    created_at: datetime
    success_count: int
    failure_count: int
    last_used_at: datetime | None
    metadata: dict[str, Any]
    hypervisor: str
    shape: ShapeOut
    consecutive_failures: int
    replaces: UUID | None
    error: dict[str, Any] | None
    version: int = Field(description="counts up per runtime image and shape")
    weight: float
    pinned: bool
    cause: BuildCause = Field(description="why it was begun")
    usable: bool
    unmet_requirement: str | None
    unusable_because: str
    stats: SnapshotStatsOut
    rebuild_failures: int = Field(description="rebuilds by the manager itself that failed in a row")
    rebuild_not_before: datetime | None

    @classmethod
    def of(cls, snapshot: RuntimeSnapshot, fit: Fit) -> Self:
        return cls(
            id=snapshot.id,
            runtime_image_id=snapshot.runtime_image_id,
            snapshot_path=str(snapshot.snapshot_path),
            state=snapshot.state,
            fc_version=snapshot.fc_version,
            created_at=snapshot.created_at,
            success_count=snapshot.success_count,
            failure_count=snapshot.failure_count,
            last_used_at=snapshot.last_used_at,
            metadata=dict(snapshot.metadata),
            hypervisor=snapshot.hypervisor,
            shape=ShapeOut.of(snapshot.shape),
            consecutive_failures=snapshot.consecutive_failures,
            replaces=snapshot.replaces,
            error=None if snapshot.error is None else dict(snapshot.error),
            version=snapshot.version,
            weight=snapshot.weight,
            pinned=snapshot.pinned,
            cause=snapshot.cause,
            usable=fit.usable,
            unmet_requirement=fit.requirement,
            unusable_because=fit.why,
            stats=SnapshotStatsOut.of(snapshot),
            rebuild_failures=snapshot.rebuild_failures,
            rebuild_not_before=snapshot.rebuild_not_before,
        )

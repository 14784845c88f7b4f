"""Response models for runtime snapshots: the specification's fields, and more."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from warmboot.api.schemas.responses import AsText, Out, ShapeOut
from warmboot.model.runtime_snapshot import BuildCause, Depth, RuntimeSnapshot, SnapshotState
from warmboot.model.snapshot_fit import Fit


class RebuildStarted(BaseModel):
    id: UUID
    message: str = "Snapshot rebuild initiated"


Seconds = Annotated[float | None, AfterValidator(lambda s: None if s is None else round(s, 4))]


class BootSecondsOut(Out):
    """Seconds of good warm boots; ``median`` of the last 50, ``mean`` of all."""

    count: int
    median: Seconds = Field(validation_alias="median_s")
    mean: Seconds = Field(validation_alias="mean_s")


class SnapshotStatsOut(Out):
    boots: int = Field(validation_alias="boot_count", description="tried: successes and failures")
    successes: int = Field(validation_alias="success_count")
    failures: int = Field(validation_alias="failure_count")
    boot_s: BootSecondsOut = Field(validation_alias="boots")


class RuntimeSnapshotOut(Out):
    """``fc_version`` is the hypervisor's version; the name is the specification's.

    ``usable`` is apart from ``state``: a ``ready`` one that does not fit this host is not usable
    here, and ``unmet_requirement`` and ``unusable_because`` say why; it is not broken.
    """

    id: UUID
    runtime_image_id: UUID
    snapshot_path: AsText
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
    depth: Depth = Field(
        description="how much of the work it has done already: Docker is ready (runtime), an "
        "image is in the guest, too (image; metadata.image says which), or an engine's containers "
        "run (engine)"
    )
    name: str | None = Field(description="what a user has named it; null for a version")
    parent_id: UUID | None = Field(
        description="the runtime snapshot that it lies on, and that is kept for it"
    )
    stored_bytes: int | None = Field(
        description="what its files take on the disk; null before it is done"
    )
    version: int = Field(
        description="counts up per runtime image and shape; 0 for one of another depth"
    )
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
    def judged(cls, snapshot: RuntimeSnapshot, fit: Fit) -> Self:
        """``snapshot``, and whether it can be used here."""
        judgement = {
            "usable": fit.usable,
            "unmet_requirement": fit.requirement,
            "unusable_because": fit.why,
            "stats": SnapshotStatsOut.of(snapshot),
        }
        recorded = cls.model_fields.keys() - judgement.keys()
        return cls.model_validate(judgement | {name: getattr(snapshot, name) for name in recorded})

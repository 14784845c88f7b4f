"""Response models for the host and its manager."""

from __future__ import annotations

from uuid import UUID

from pydantic import AliasPath, Field

from warmboot.api.schemas.responses import AsText, Out, ShapeOut
from warmboot.model.runtime_snapshot import Depth


class CheckOut(Out):
    name: str
    ok: bool
    summary: str
    why: str
    remedy: str
    required: bool


class PooledSnapshotOut(Out):
    snapshot_id: UUID = Field(description="the snapshot that they were restored from")
    depth: Depth = Field(description="runtime, or image for one with an image in it")
    image: str | None = Field(description="that image, by name and tag; null without one")
    ready: int = Field(description="VMs of it that are ready in the warm pool")
    size: int = Field(description="VMs of it that the warm pool should have")
    boots: int = Field(description="warm boots from it within MANAGER_POOL_WINDOW_S")


class WarmPoolOut(Out):
    """The VMs that are kept prepared; all 0 where the pool is off."""

    ready: int = Field(description="VMs that are ready in the warm pool")
    size: int = Field(
        description="VMs that it should have, by the demand of the last minutes and the free memory"
    )
    min: int = Field(description="the least that it should have where memory allows")
    max: int = Field(description="the most that it may have")
    memory_short: bool = Field(description="whether it would be larger were more memory free")
    hits: int = Field(description="warm boots that found a VM in it, since the manager's start")
    misses: int = Field(description="warm boots that did not, since the manager's start")
    evicted: int = Field(description="VMs of it that were ended so that another had memory")
    snapshots: list[PooledSnapshotOut] = Field(description="what it has of which snapshot")


class HostInfoOut(Out):
    version: str
    hypervisor: str
    hypervisor_version: str
    accelerator: str
    storage_root: AsText
    default_shape: ShapeOut
    warm_pool: WarmPoolOut = Field(description="the VMs that are kept prepared")
    standby_vms: int = Field(
        validation_alias=AliasPath("warm_pool", "ready"),
        description="warm_pool.ready, by its earlier name",
        json_schema_extra={"deprecated": True},
    )
    standby_vms_most: int = Field(
        validation_alias=AliasPath("warm_pool", "size"),
        description="warm_pool.size, by its earlier name",
        json_schema_extra={"deprecated": True},
    )
    checks: list[CheckOut]

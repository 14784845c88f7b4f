"""Response models for the host and its manager."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from warmboot.api.schemas.responses import ShapeOut
from warmboot.manager.ports import Check, HostInfo


class CheckOut(BaseModel):
    name: str
    ok: bool
    summary: str
    why: str
    remedy: str
    required: bool

    @classmethod
    def of(cls, check: Check) -> Self:
        return cls(
            name=check.name,
            ok=check.ok,
            summary=check.summary,
            why=check.why,
            remedy=check.remedy,
            required=check.required,
        )


class HostInfoOut(BaseModel):
    version: str
    hypervisor: str
    hypervisor_version: str
    accelerator: str
    storage_root: str
    default_shape: ShapeOut
    standby_vms: int = Field(description="VMs that are ready in the warm pool")
    standby_vms_most: int = Field(description="the size of the warm pool")
    checks: list[CheckOut]

    @classmethod
    def of(cls, info: HostInfo) -> Self:
        return cls(
            version=info.version,
            hypervisor=info.hypervisor,
            hypervisor_version=info.hypervisor_version,
            accelerator=info.accelerator,
            storage_root=str(info.storage_root),
            default_shape=ShapeOut.of(info.default_shape),
            standby_vms=info.standby_vms,
            standby_vms_most=info.standby_vms_most,
            checks=[CheckOut.of(check) for check in info.checks],
        )

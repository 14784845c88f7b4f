"""Response models for the host and its manager."""

from __future__ import annotations

from pydantic import Field

from warmboot.api.schemas.responses import AsText, Out, ShapeOut


class CheckOut(Out):
    name: str
    ok: bool
    summary: str
    why: str
    remedy: str
    required: bool


class HostInfoOut(Out):
    version: str
    hypervisor: str
    hypervisor_version: str
    accelerator: str
    storage_root: AsText
    default_shape: ShapeOut
    standby_vms: int = Field(description="VMs that are ready in the warm pool")
    standby_vms_most: int = Field(description="the size of the warm pool")
    checks: list[CheckOut]

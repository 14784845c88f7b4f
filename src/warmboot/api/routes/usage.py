"""``/v1/system/usage``: current usage of VMs and disk, and the boots of the last minutes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from warmboot.api.routing import Wired
from warmboot.api.schemas.responses import Item
from warmboot.model.container import BootMethod
from warmboot.model.usage import BootSummary, OwnedVm, Usage

router = APIRouter(prefix="/v1/system", tags=["system"])

DEFAULT_WINDOW_S = 300.0
MAX_WINDOW_S = 86_400.0


class BootSummaryOut(BaseModel):
    count: int
    median_s: float | None
    max_s: float | None
    reasons: dict[str, int] = Field(description="how many were cold for which reason")

    @classmethod
    def of(cls, summary: BootSummary) -> Self:
        return cls(
            count=summary.count,
            median_s=summary.median_s,
            max_s=summary.max_s,
            reasons=dict(summary.reasons),
        )


class VmUsageOut(BaseModel):
    vm_id: str
    kind: str
    owner_id: UUID = Field(description="the container in it, or the snapshot that is built in it")
    cpu_s: float = Field(description="processor time since its start: two looks give a load")
    memory_bytes: int = Field(description="its share (PSS): pages that VMs share are divided")
    private_bytes: int = Field(description="what its end would give back")

    @classmethod
    def of(cls, vm: OwnedVm) -> Self:
        return cls(
            vm_id=vm.usage.vm_id,
            kind=vm.kind,
            owner_id=vm.owner_id,
            cpu_s=vm.usage.cpu_s,
            memory_bytes=vm.usage.memory_bytes,
            private_bytes=vm.usage.private_bytes,
        )


class StorageOut(BaseModel):
    total_bytes: int
    free_bytes: int
    floor_bytes: int


class UsageOut(BaseModel):
    at: datetime
    window_s: float
    boots: dict[BootMethod, BootSummaryOut]
    vms: list[VmUsageOut]
    storage: StorageOut

    @classmethod
    def of(cls, usage: Usage) -> Self:
        disk = usage.storage
        return cls(
            at=usage.at,
            window_s=usage.window_s,
            boots={method: BootSummaryOut.of(boots) for method, boots in usage.boots.items()},
            vms=[VmUsageOut.of(vm) for vm in usage.vms],
            storage=StorageOut(
                total_bytes=disk.total_bytes,
                free_bytes=disk.free_bytes,
                floor_bytes=disk.floor_bytes,
            ),
        )


@router.get("/usage", summary="What VMs and disk use, and the boots of the last minutes")
async def usage(
    services: Wired,
    window_s: Annotated[
        float, Query(gt=0, le=MAX_WINDOW_S, allow_inf_nan=False, description="of the boots")
    ] = DEFAULT_WINDOW_S,
) -> Item[UsageOut]:
    return Item(item=UsageOut.of(await services.system.usage(window_s)))

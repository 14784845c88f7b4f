"""``/v1/system/usage``: current usage of VMs and disk, and the boots of the last minutes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AliasPath, Field

from warmboot.api.routing import Wired
from warmboot.api.schemas.responses import Item, Out
from warmboot.model.tenants.boot import BootMethod

router = APIRouter(prefix="/v1/system", tags=["system"])

DEFAULT_WINDOW_S = 300.0
MAX_WINDOW_S = 86_400.0


class BootSummaryOut(Out):
    count: int
    median_s: float | None
    max_s: float | None
    reasons: dict[str, int] = Field(description="how many were cold for which reason")


def _used(name: str, description: str | None = None) -> Any:
    return Field(validation_alias=AliasPath("usage", name), description=description)


class VmUsageOut(Out):
    vm_id: str = _used("vm_id")
    kind: str
    owner_id: UUID = Field(description="the container in it, or the snapshot that is built in it")
    cpu_s: float = _used("cpu_s", "processor time since its start: two looks give a load")
    memory_bytes: int = _used("memory_bytes", "its share (PSS): pages that VMs share are divided")
    private_bytes: int = _used("private_bytes", "what its end would give back")


class StorageOut(Out):
    total_bytes: int
    free_bytes: int
    floor_bytes: int


class UsageOut(Out):
    at: datetime
    window_s: float
    boots: dict[BootMethod, BootSummaryOut]
    vms: list[VmUsageOut]
    storage: StorageOut


@router.get("/usage", summary="What VMs and disk use, and the boots of the last minutes")
async def get_usage(
    services: Wired,
    window_s: Annotated[
        float, Query(gt=0, le=MAX_WINDOW_S, allow_inf_nan=False, description="of the boots")
    ] = DEFAULT_WINDOW_S,
) -> Item[UsageOut]:
    return Item(item=UsageOut.of(await services.system.usage(window_s)))

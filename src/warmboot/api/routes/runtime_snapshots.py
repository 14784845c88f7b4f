"""``/v1/runtime-snapshots``, as specified."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from warmboot.api.routing import Id, Wired
from warmboot.api.schemas.requests import RuntimeSnapshotChange, RuntimeSnapshotIn
from warmboot.api.schemas.responses import Created, Item, Items, Ok
from warmboot.api.schemas.snapshot_responses import RebuildStarted, RuntimeSnapshotOut

router = APIRouter(prefix="/v1/runtime-snapshots", tags=["runtime snapshots"])


@router.post(
    "",
    status_code=201,
    summary="Begin to build a snapshot, another version beside any that are there",
)
async def create_runtime_snapshot(body: RuntimeSnapshotIn, services: Wired) -> Created:
    shape = body.shape.to_model() if body.shape else None
    return Created(id=await services.snapshots.create(body.runtime_image_id, shape))


@router.get("", summary="List snapshots")
async def list_runtime_snapshots(
    services: Wired,
    include_deleted: Annotated[bool, Query(description="those too that wait for cleanup")] = False,
) -> Items[RuntimeSnapshotOut]:
    found = await services.snapshots.list(include_deleted=include_deleted)
    fit = services.snapshots.fit
    return Items(
        items=[RuntimeSnapshotOut.judged(snapshot, await fit(snapshot)) for snapshot in found]
    )


@router.get("/{id}", summary="Show a snapshot")
async def get_runtime_snapshot(id: Id, services: Wired) -> Item[RuntimeSnapshotOut]:
    snapshot = await services.snapshots.get(id)
    return Item(item=RuntimeSnapshotOut.judged(snapshot, await services.snapshots.fit(snapshot)))


@router.patch("/{id}", summary="Change how often a version is chosen, or whether it is pinned")
async def change_runtime_snapshot(
    id: Id, body: RuntimeSnapshotChange, services: Wired
) -> Item[RuntimeSnapshotOut]:
    changed = await services.snapshots.set_traits(id, weight=body.weight, pinned=body.pinned)
    return Item(item=RuntimeSnapshotOut.judged(changed, await services.snapshots.fit(changed)))


@router.delete("/{id}", summary="Mark a snapshot as deleted; its files go when no VM maps them")
async def delete_runtime_snapshot(id: Id, services: Wired) -> Ok:
    await services.snapshots.delete(id)
    return Ok()


@router.post("/{id}/rebuild", status_code=202, summary="Begin to build a snapshot's successor")
async def rebuild_runtime_snapshot(id: Id, services: Wired) -> RebuildStarted:
    return RebuildStarted(id=await services.snapshots.rebuild(id))

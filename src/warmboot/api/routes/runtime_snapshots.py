"""``/v1/runtime-snapshots``, as specified."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from warmboot.api.routing import Id, Paging, Wired, paged
from warmboot.api.schemas.requests import RuntimeSnapshotChange, RuntimeSnapshotIn
from warmboot.api.schemas.responses import Created, Item, Ok, Paged
from warmboot.api.schemas.snapshot_responses import RebuildStarted, RuntimeSnapshotOut
from warmboot.model.runtime_snapshot import SnapshotState

router = APIRouter(prefix="/v1/runtime-snapshots", tags=["runtime snapshots"])


@router.post(
    "",
    status_code=201,
    summary="Begin to build a snapshot: another version, or one with an image in it",
)
async def create_runtime_snapshot(body: RuntimeSnapshotIn, services: Wired) -> Created:
    shape = body.shape.to_model() if body.shape else None
    if body.image is not None:
        made = await services.snapshots.prepare_image(body.image, body.runtime_image_id, shape)
        return Created(id=made)
    assert body.runtime_image_id is not None
    return Created(id=await services.snapshots.create(body.runtime_image_id, shape))


@router.get("", summary="List snapshots")
async def list_runtime_snapshots(
    services: Wired,
    wanted: Paging,
    include_deleted: Annotated[
        bool, Query(description="those too that wait for cleanup; needless beside state")
    ] = False,
    state: Annotated[
        tuple[SnapshotState, ...],
        Query(max_length=16, description="only those in one of these states"),
    ] = (),
    runtime_image_id: Annotated[
        UUID | None, Query(description="only those of this runtime image")
    ] = None,
) -> Paged[RuntimeSnapshotOut]:
    """Newest first."""
    states = state or (None if include_deleted else set(SnapshotState) - {SnapshotState.DELETED})
    page = await services.pages.snapshots(wanted, states, runtime_image_id)
    fits = {one.id: await services.snapshots.fit(one) for one in page.things}
    return paged(page, lambda one: RuntimeSnapshotOut.judged(one, fits[one.id]))


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

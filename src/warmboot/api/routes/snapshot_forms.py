"""How a snapshot's memory is stored: ``/v1/runtime-snapshots/{id}/compress`` and ``/unpack``."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from warmboot.api.routing import Id, Wired

router = APIRouter(prefix="/v1/runtime-snapshots", tags=["runtime snapshots"])


class FormChangeStarted(BaseModel):
    """``metadata.compressed`` of the snapshot tells when it is done; events, if it fails."""

    id: UUID
    message: str


@router.post("/{id}/compress", status_code=202, summary="Begin to store its memory compressed")
async def compress_runtime_snapshot(id: Id, services: Wired) -> FormChangeStarted:
    await services.forms.compress(id)
    return FormChangeStarted(id=id, message="Compression initiated")


@router.post("/{id}/unpack", status_code=202, summary="Begin to store its memory plain again")
async def unpack_runtime_snapshot(id: Id, services: Wired) -> FormChangeStarted:
    await services.forms.unpack(id)
    return FormChangeStarted(id=id, message="Unpacking initiated")

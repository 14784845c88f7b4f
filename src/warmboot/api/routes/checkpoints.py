"""``/v1/workers/{ref}/checkpoints``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse

from warmboot.api.routes.archives import announced_bytes, heard_out
from warmboot.api.routes.workers import Wiring
from warmboot.api.routing import Paging, Ref, Wired, paged
from warmboot.api.schemas.requests import NAME_PATTERN
from warmboot.api.schemas.responses import Item, Ok, Paged
from warmboot.api.schemas.worker_requests import CheckpointIn, CheckpointName
from warmboot.api.schemas.worker_responses import CheckpointOut
from warmboot.api.streams import Streamed, begun
from warmboot.model.checkpoint import CheckpointState
from warmboot.model.conventions.names import MAX_NAME_LENGTH

router = APIRouter(prefix="/v1/workers/{ref}/checkpoints", tags=["checkpoints"])

ARCHIVE = "application/zstd"

CheckpointRef = Annotated[
    str,
    Path(
        description="the checkpoint's name",
        min_length=2,
        max_length=MAX_NAME_LENGTH,
        pattern=NAME_PATTERN,
    ),
]
_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.get("", summary="List a worker's checkpoints, newest first")
async def list_checkpoints(
    ref: Ref,
    services: Wired,
    workers: Wiring,
    wanted: Paging,
    state: Annotated[
        tuple[CheckpointState, ...],
        Query(max_length=16, description="only those in one of these states"),
    ] = (),
) -> Paged[CheckpointOut]:
    worker = await workers.get(ref)
    page = await services.pages.checkpoints(worker.id, wanted, state or None)
    return paged(page, CheckpointOut.of)


@router.post("", status_code=201, summary="Make a checkpoint; the worker runs on unless told else")
async def create_checkpoint(
    ref: Ref, workers: Wiring, body: CheckpointIn | None = None
) -> Item[CheckpointOut]:
    asked = body or CheckpointIn()
    made = await workers.create_checkpoint(
        ref, asked.name, leave_running=asked.leave_running, timeout_s=asked.timeout_s
    )
    return Item(item=CheckpointOut.of(made))


@router.post(
    "/import",
    status_code=201,
    summary="Bring an archive into a worker that was created but never started",
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "an archive as the export gives it",
            "content": {"application/octet-stream": _BINARY},
        }
    },
)
async def import_checkpoint(
    ref: Ref,
    request: Request,
    workers: Wiring,
    name: Annotated[CheckpointName, Query(description="what to call it here")] = "imported",
) -> Item[CheckpointOut]:
    size_bytes = announced_bytes(request)
    async with heard_out(request) as chunks:
        made = await workers.import_checkpoint(ref, name, chunks, size_bytes)
    return Item(item=CheckpointOut.of(made))


@router.get("/{checkpoint}", summary="Show a checkpoint")
async def get_checkpoint(
    ref: Ref, checkpoint: CheckpointRef, workers: Wiring
) -> Item[CheckpointOut]:
    return Item(item=CheckpointOut.of(await workers.checkpoint(ref, checkpoint)))


@router.delete("/{checkpoint}", summary="Delete a checkpoint")
async def delete_checkpoint(ref: Ref, checkpoint: CheckpointRef, workers: Wiring) -> Ok:
    await workers.delete_checkpoint(ref, checkpoint)
    return Ok()


@router.get(
    "/{checkpoint}/export",
    summary="A checkpoint as one file: tar, zstd, with a manifest",
    response_class=StreamingResponse,
    responses={200: {"description": "The archive", "content": {ARCHIVE: _BINARY}}},
)
async def export_checkpoint(ref: Ref, checkpoint: CheckpointRef, workers: Wiring) -> Streamed:
    """What ``checkpointctl`` reads, too. The worker must not run meanwhile."""
    exported = await workers.export_checkpoint(ref, checkpoint)
    return Streamed(
        await begun(exported.chunks, wait_s=None),
        media_type=ARCHIVE,
        headers={"Content-Disposition": f'attachment; filename="{exported.file_name}"'},
    )

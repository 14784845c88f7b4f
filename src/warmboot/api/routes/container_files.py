"""``/v1/containers/{ref}/…``: processes, changes, and files in and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from warmboot.api.routes.archives import announced_bytes, heard_out
from warmboot.api.routing import Ref, Wired
from warmboot.api.schemas.inside_responses import (
    ChangeOut,
    ContainerStatsOut,
    FileStatusOut,
    HealthReportOut,
    ProcessTableOut,
)
from warmboot.api.schemas.requests import ABSOLUTE_PATTERN, NO_NUL_PATTERN
from warmboot.api.schemas.responses import Item, Items, Ok
from warmboot.api.streams import Streamed, begun

router = APIRouter(prefix="/v1/containers/{ref}", tags=["containers"])

TAR = "application/x-tar"
_BINARY = {"schema": {"type": "string", "format": "binary"}}

InsidePath = Annotated[
    str,
    Query(
        min_length=1,
        max_length=4095,
        pattern=ABSOLUTE_PATTERN,
        description="an absolute path in the container",
    ),
]


@router.get("/processes", summary="The processes of a running container")
async def list_processes(
    ref: Ref,
    services: Wired,
    ps_args: Annotated[
        str,
        Query(max_length=256, pattern=NO_NUL_PATTERN, description="options of ps"),
    ] = "-ef",
) -> Item[ProcessTableOut]:
    return Item(item=ProcessTableOut.of(await services.files.processes(ref, ps_args)))


@router.get("/stats", summary="What a running container uses")
async def get_stats(ref: Ref, services: Wired) -> Item[ContainerStatsOut]:
    """Its Docker looks twice, so it takes a second or two."""
    return Item(item=ContainerStatsOut.of(await services.files.stats(ref)))


@router.get("/health", summary="What a container's health check has found")
async def get_health(ref: Ref, services: Wired) -> Item[HealthReportOut]:
    return Item(item=HealthReportOut.of(await services.files.health(ref)))


@router.get("/changes", summary="What a container has changed of its image's files")
async def list_changes(ref: Ref, services: Wired) -> Items[ChangeOut]:
    return Items(items=[ChangeOut.of(one) for one in await services.files.changes(ref)])


@router.get("/file-status", summary="Show a file in a container")
async def get_file_status(ref: Ref, path: InsidePath, services: Wired) -> Item[FileStatusOut]:
    """A link is not followed."""
    return Item(item=FileStatusOut.of(await services.files.status(ref, path)))


@router.get(
    "/files",
    summary="Copy a file or folder out of a container",
    response_class=StreamingResponse,
    responses={
        200: {"description": "A tar, in which it has its own name", "content": {TAR: _BINARY}}
    },
)
async def read_files(ref: Ref, path: InsidePath, services: Wired) -> Streamed:
    """It may have exited, as long as its VM is there."""
    chunks = await begun(services.files.read(ref, path), wait_s=None)
    return Streamed(chunks, media_type=TAR)


@router.put(
    "/files",
    summary="Copy files into a container",
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "a tar, also compressed (gzip, bzip2, xz)",
            "content": {"application/octet-stream": _BINARY},
        }
    },
)
async def write_files(
    ref: Ref,
    path: InsidePath,
    request: Request,
    services: Wired,
    keep_owners: Annotated[
        bool, Query(description="files belong to whom the tar says; else to root")
    ] = False,
) -> Ok:
    """``path`` is a folder that is there."""
    announced_bytes(request)
    async with heard_out(request) as tar:
        await services.files.write(ref, path, tar, keep_owners=keep_owners)
    return Ok()

"""``/v1/archives``: local image archives, uploaded before the container that uses one."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect

from warmboot.api.body import check_length
from warmboot.api.problems import MalformedRequest
from warmboot.api.responses import Uploaded
from warmboot.api.routing import Wired

router = APIRouter(prefix="/v1/archives", tags=["archives"])

_BODY = {
    "requestBody": {
        "required": True,
        "description": "a tar as `docker save` writes it, or an OCI layout as tar",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("", status_code=201, summary="Upload an image archive", openapi_extra=_BODY)
async def upload(request: Request, services: Wired) -> Uploaded:
    check_length(request.headers, None)
    return Uploaded(id=await services.archives.upload(upload_chunks(request)))


async def upload_chunks(request: Request) -> AsyncIterator[bytes]:
    """A request's body as it comes."""
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect as error:
        raise MalformedRequest("the upload was cut off", resolution="upload it again") from error

"""``/v1/archives``: local image archives, uploaded before the container that uses one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect

from warmboot.api.middleware.body import check_length
from warmboot.api.problems import MalformedRequest, TooSlow
from warmboot.api.routing import Wired
from warmboot.api.schemas.responses import Uploaded
from warmboot.model.errors import WarmbootError

router = APIRouter(prefix="/v1/archives", tags=["archives"])

STALLED_S = 30.0
LEAST_BYTES = 64 * 1024

_BODY = {
    "requestBody": {
        "required": True,
        "description": "a tar as `docker save` writes it, or an OCI layout as tar; also compressed",
        "content": {
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary", "minLength": 1}
            }
        },
    }
}


@router.post("", status_code=201, summary="Upload an image archive", openapi_extra=_BODY)
async def upload_archive(request: Request, services: Wired) -> Uploaded:
    size_bytes = announced_bytes(request)
    async with heard_out(request) as chunks:
        return Uploaded(id=await services.archives.upload(chunks, size_bytes))


@contextlib.asynccontextmanager
async def heard_out(request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
    """A request's body. If it is refused, the rest is read as well before that is said.

    Most clients look for an answer only when they have sent all: of a connection that is closed
    before, they have an error and no reason. Who waits for ``100 Continue`` sends nothing in vain.
    """
    chunks, waits = upload_chunks(request), "expect" in request.headers
    came = False

    async def noted() -> AsyncIterator[bytes]:
        nonlocal came
        async for chunk in chunks:
            came = True
            yield chunk

    try:
        yield noted()
    except WarmbootError:
        if came or not waits:
            with contextlib.suppress(MalformedRequest, TooSlow):
                async for _ in chunks:
                    pass
        raise


def announced_bytes(request: Request) -> int | None:
    """How long the body is, if that was said. Raises ``MalformedRequest``."""
    check_length(request.headers, None)
    declared = request.headers.get("content-length")
    return None if declared is None else int(declared)


async def upload_chunks(request: Request) -> AsyncIterator[bytes]:
    """A request's body as it comes, as long as enough of it does (``LEAST_BYTES`` a while).

    Only the time counts in which nothing is there: a slow disk is not the client's fault.
    """
    loop = asyncio.get_running_loop()
    stream, waited_s, came_bytes = request.stream(), 0.0, 0
    try:
        while True:
            begun = loop.time()
            async with asyncio.timeout(max(0.0, STALLED_S - waited_s)):
                chunk = await anext(stream, None)
            if chunk is None:
                return
            waited_s += loop.time() - begun
            came_bytes += len(chunk)
            if came_bytes >= LEAST_BYTES:
                waited_s, came_bytes = 0.0, 0
            if chunk:
                yield chunk
    except ClientDisconnect as error:
        raise MalformedRequest("the upload was cut off", resolution="upload it again") from error
    except TimeoutError as error:
        raise TooSlow(
            "the upload stalled, and was cut off",
            details=f"less than {LEAST_BYTES >> 10} KiB came in {STALLED_S:g} s",
            resolution="upload it again",
        ) from error

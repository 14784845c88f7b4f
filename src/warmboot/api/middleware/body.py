"""Reads request bodies completely, within limits of size and time, before they are used.

Only uploads (``/v1/archives``, checkpoints that are imported, files of containers) pass through as
a stream.
"""

from __future__ import annotations

import asyncio
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmboot.api.problems import MalformedRequest, TooLarge, TooSlow, WrongMediaType, problem_of
from warmboot.model.errors import WarmbootError

MAX_BODY_BYTES = 4 * 1024 * 1024

MAX_CREATION_BYTES = 32 * 1024 * 1024
"""As much as the largest container or worker that the schema allows can take as JSON: 2 MiB of
arguments and environment (``program_start``), of which a control character takes six bytes; labels
and mounts, of which any character can take twelve."""

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Of a session: as much as the largest command and environment that an exec begins with."""

BODY_TIMEOUT_S = 60.0
_CREATED = re.compile(r"/v1/(containers|workers)")
_STREAMED = re.compile(
    r"/v1/archives|/v1/workers/[^/]+/checkpoints/import|/v1/containers/[^/]+/files"
)


def is_streamed(path: str) -> bool:
    """Whether this is the path of an upload."""
    return _STREAMED.fullmatch(path) is not None


def limit_bytes(path: str) -> int:
    """How large the body of a request to this path may be."""
    return MAX_CREATION_BYTES if _CREATED.fullmatch(path) else MAX_BODY_BYTES


class Disconnected(Exception):
    """The client went away before its request was complete."""


class BodyMiddleware:
    """Hands on each request with its body in one piece, or refuses it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_streamed(scope["path"]):
            await self.app(scope, receive, send)
            return
        try:
            limit = limit_bytes(scope["path"])
            check_length(Headers(scope=scope), limit)
            body = await read_body(receive, limit)
            _settle_content_type(scope, body)
        except WarmbootError as error:
            await problem_of(error)(scope, receive, send)
            return
        except Disconnected:
            return
        await self.app(scope, replay(body, receive), send)


def check_length(headers: Headers, limit: int | None) -> None:
    """Refuse a Content-Length that is no number, or over ``limit`` bytes."""
    declared = headers.get("content-length")
    if declared is None:
        return
    if not (declared.isascii() and declared.isdigit() and len(declared) < 20):
        raise MalformedRequest("Content-Length is not a number of bytes")
    if limit is not None and int(declared) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the body is over {limit} bytes",
        resolution="send less; image archives go to POST /v1/archives",
    )


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body, of ``limit`` bytes at most.

    Raises ``TooLarge``, ``TooSlow`` or ``Disconnected``.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                body += message.get("body", b"")
                if len(body) > limit:
                    raise _too_large(limit)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as error:
        raise TooSlow(
            f"the body did not arrive within {BODY_TIMEOUT_S:g} s", resolution="send it again"
        ) from error


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` once and then whatever comes (a disconnect)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _settle_content_type(scope: Scope, body: bytes) -> None:
    """Bodies are JSON. ``curl -d '{…}'`` calls it a form, as the specification's examples do."""
    if not body:
        return
    headers = MutableHeaders(scope=scope)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return
    if kind in ("", "application/x-www-form-urlencoded") and body.lstrip()[:1] == b"{":
        headers["content-type"] = "application/json"
        return
    raise WrongMediaType(
        "the body is not JSON",
        details=f"Content-Type is {kind or 'missing'}",
        resolution="send Content-Type: application/json",
    )

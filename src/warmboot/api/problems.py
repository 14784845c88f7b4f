"""Errors as ``application/problem+json`` (RFC 9457); the only place that knows HTTP status codes.

use case ──raises WarmbootError──▶ handlers ──▶ problem+json
pydantic ──…RequestValidationError▶    "
router   ──HTTPException──────────▶    "
a bug    ──any Exception──────────▶ ErrorMiddleware: logged, the answer names the id in the log
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmboot.api.sentences import sentence
from warmboot.model import errors

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

# The nearest class in an error's ancestry counts.
STATUS: Mapping[type[errors.WarmbootError], int] = {
    errors.WarmbootError: 500,
    errors.InvalidRequest: 422,
    errors.Unauthorized: 401,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.NotSupported: 422,
    errors.Unavailable: 503,
    errors.DiskFull: 507,
    errors.MemoryFull: 507,
    errors.RowUnreadable: 409,
    errors.HostError: 500,
    errors.ImageDamaged: 422,
    errors.VmGone: 409,
    errors.VmUnresponsive: 503,
    errors.GuestUnreachable: 503,
    errors.ContainerError: 422,
    errors.CheckpointRefused: 409,
    errors.CheckpointTimeout: 409,
}


class MalformedRequest(errors.InvalidRequest):
    """The request is not valid HTTP: its length or a header is wrong."""

    code = "malformed-request"


class ForeignOrigin(errors.WarmbootError):
    """A browser was led here from elsewhere."""

    code = "foreign-origin"


class Forbidden(errors.WarmbootError):
    """A token that is good, but not for this."""

    code = "forbidden"


class TooLarge(errors.InvalidRequest):
    code = "too-large"


class WrongMediaType(errors.InvalidRequest):
    code = "wrong-media-type"


class TooSlow(errors.InvalidRequest):
    code = "too-slow"


_STATUS_HERE: Mapping[type[errors.WarmbootError], int] = {
    MalformedRequest: 400,
    ForeignOrigin: 403,
    Forbidden: 403,
    TooSlow: 408,
    TooLarge: 413,
    WrongMediaType: 415,
}

_CODES = {400: "malformed-request", 404: "not-found", 405: "method-not-allowed"}
_HINTS = {
    404: "GET /openapi.json lists all paths",
    405: "the Allow header lists what this path takes",
    400: "send a JSON document that fits the schema in /openapi.json",
}
_NO_JSON = "the body is no JSON"
_UNREAD = {RecursionError: "it is nested too deeply", UnicodeDecodeError: "it is not UTF-8 text"}


def status_of(error: errors.WarmbootError) -> int:
    """The HTTP status of an error."""
    table = {**STATUS, **_STATUS_HERE}
    return next(table[base] for base in type(error).__mro__ if base in table)


def clean(text: str) -> str:
    """``text`` with what UTF-8 cannot carry (lone surrogates) spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def problem(
    status: int,
    code: str,
    title: str,
    *,
    detail: str = "",
    resolution: str = "",
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """A problem+json response."""
    body = {
        "type": f"urn:warmboot:problem:{code}",
        "title": clean(title),
        "status": status,
        "detail": clean(detail),
        "code": code,
        "resolution": clean(resolution),
        **more,
    }
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(content, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def problem_of(error: errors.WarmbootError) -> Response:
    """The response for one of our own errors."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503 or getattr(error, "retry_after_s", None):
        headers["Retry-After"] = str(getattr(error, "retry_after_s", 5))
    if status >= 500:
        log.warning("answered %d %s: %s", status, error.code, clean(str(error)).replace("\n", "; "))
    return problem(
        status,
        error.code,
        error.brief,
        detail=error.details,
        resolution=error.resolution,
        headers=headers,
        **findings(error),
    )


def findings(error: errors.WarmbootError) -> dict[str, Any]:
    """The fields that are not valid, as ``errors`` of a problem."""
    return {"errors": error.listed} if isinstance(error, DoesNotFit) else {}


async def refuse(error: errors.WarmbootError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a problem; a WebSocket is denied before it is accepted."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get(
        "extensions", {}
    ):
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": error.brief[:120]})
        return
    await problem_of(error)(scope, receive, send)


class DoesNotFit(errors.InvalidRequest):
    """What pydantic ``found``, without the input itself: it may be secret, huge or not printable.

    ``listed`` has the fields, and a sentence on each.
    """

    def __init__(self, found: Sequence[Any]) -> None:
        if found and found[0]["type"] == "json_invalid":
            detail = clean(f"{found[0]['ctx']['error']} at character {found[0]['loc'][-1]}")
            super().__init__(
                _NO_JSON,
                details=detail,
                resolution="send a JSON document that fits the schema in /openapi.json",
            )
            self.listed = [{"field": "body", "message": detail}]
            return
        self.listed = [
            {"field": _where(item["loc"]), "message": clean(sentence(item))[:500]}
            for item in found[:20]
            # What may be left out may not be null where nothing can be.
            if item["type"] != "none_required" or item["loc"][0] == "body"
        ]
        first = self.listed[0]["field"] if self.listed else "body"
        name = first.removeprefix("body.").removeprefix("query.").removeprefix("path.")
        alone = len(self.listed) == 1
        super().__init__(
            f"{name} is not valid",
            details="; ".join(
                item["message"] if alone else f"{item['field']}: {item['message']}"
                for item in self.listed[:5]
            ),
            resolution=f"correct {name}; /openapi.json has the schema",
        )


def _where(location: Sequence[Any]) -> str:
    if location and location[0] in ("header", "query", "path"):
        location = [part for part in location[:2] if part]  # what follows are types of ours
    return clean(".".join(str(part) for part in location))[:200]


def unexpected_problem(error: Exception, path: str) -> Response:
    """A bug, or something nobody foresaw: logged in full, answered with an id to look for."""
    incident = secrets.token_hex(6)
    log.error("unexpected error %s in %s", incident, clean(path), exc_info=error)
    return problem(
        500,
        "internal",
        "something unexpected went wrong in warmboot",
        detail=f"The log has the whole story under the id {incident}.",
        resolution="try again; if it happens again, report it together with the log lines",
        id=incident,
    )


def install_handlers(app: FastAPI) -> None:
    """Make ``app`` answer every error as a problem."""

    @app.exception_handler(errors.WarmbootError)
    async def _known(_: Request, error: errors.WarmbootError) -> Response:
        return problem_of(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        return problem_of(DoesNotFit(error.errors()))

    @app.exception_handler(WebSocketRequestValidationError)
    async def _no_session(ws: WebSocket, error: WebSocketRequestValidationError) -> None:
        await refuse(DoesNotFit(error.errors()), ws.scope, ws.receive, ws.send)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        status = error.status_code
        headers = dict(error.headers or {})
        if status == 405:
            headers["Allow"] = ", ".join(sorted(_methods_of(request)))
        why = _UNREAD.get(type(error.__cause__), "")
        return problem(
            status,
            _CODES.get(status, "invalid-request" if status < 500 else "internal"),
            _NO_JSON if why else f"{request.method} {request.url.path}: {error.detail}",
            detail=why,
            resolution=_HINTS.get(status, ""),
            headers=headers,
        )


def _methods_of(request: Request) -> set[str]:
    """All methods of a path; the router itself names those of the first route only."""
    return {
        method
        for route in request.app.state.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in getattr(route, "methods", None) or ()
    }


class ErrorMiddleware:
    """The outermost layer: whatever escapes the inner ones still becomes a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except errors.WarmbootError as error:
            if begun:
                # Too late for a status: returning early makes the server cut the connection,
                # which is how a client learns that a stream is not complete.
                log.warning("%s was cut off: %s", scope["path"], error.brief)
                return
            await problem_of(error)(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the last line; it logs and answers
            answer = unexpected_problem(error, scope["path"])
            if not begun:
                await answer(scope, receive, send)

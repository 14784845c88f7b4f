"""Starts work only after the response has been sent.

A worker that asks for its own pause is stopped in the middle of whatever it does. So the dump
begins when the answer is on its way to it, not while the request is still being handled; the layer
that keeps answers under their idempotency keys lies inside of this one.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

_KEY = "after_response"


class AfterResponseMiddleware:
    """Pure ASGI. What was asked for is called in any case, also when the client is gone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        wanted: list[Callable[[], None]] = []
        scope.setdefault("state", {})[_KEY] = wanted
        try:
            await self.app(scope, receive, send)
        finally:
            for begin in wanted:
                begin()


def after_response(request: Request, begin: Callable[[], None]) -> None:
    """Call ``begin`` when this request's answer has been sent."""
    request.scope["state"][_KEY].append(begin)
